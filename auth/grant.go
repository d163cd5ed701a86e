package auth

import (
	"errors"
	"strings"

	"cellgate/broker/shared/message"
)

// placeholder is the canonical form of {vin} and {name}, which both stand for the subject.
const placeholder = "{vin}"

// grant is one compiled topic filter of a role. It has one of three forms:
//
//   - literal: filter holds it, without a placeholder;
//   - by subject: exactly one placeholder, which fills a whole level after a prefix without wildcards; the subject is
//     compared in place, so that a hundred thousand vehicles share one compiled role;
//   - template: any other use of the placeholder; it is substituted once per Permissions.
type grant struct {
	filter         string // literal
	template       string // template
	prefix, suffix string // by subject: prefix ends with '/' or is empty, suffix has no leading '/'
	bySubject      bool
}

var (
	errGrantShare  = errors.New("a role grants plain filters: leave $share/{group}/ out")
	errGrantDollar = errors.New("topics that begin with '$' cannot be granted")
	errGrantBraces = errors.New("only {vin} and {name} may stand in braces")
)

func compileGrant(filter string) (grant, error) {
	text := strings.ReplaceAll(filter, "{name}", placeholder)
	bare := strings.ReplaceAll(text, placeholder, "x")
	switch {
	case strings.HasPrefix(text, "$share/"):
		return grant{}, errGrantShare
	case strings.HasPrefix(text, "$"):
		return grant{}, errGrantDollar
	case strings.ContainsAny(bare, "{}"):
		return grant{}, errGrantBraces
	}
	if err := message.ValidFilter(bare); err != nil {
		return grant{}, err
	}
	if text == bare {
		return grant{filter: text}, nil
	}
	prefix, suffix, _ := strings.Cut(text, placeholder)
	wholeLevel := (prefix == "" || strings.HasSuffix(prefix, "/")) && (suffix == "" || strings.HasPrefix(suffix, "/"))
	suffix = strings.TrimPrefix(suffix, "/")
	if !wholeLevel || strings.Contains(suffix, placeholder) || strings.ContainsAny(prefix, "+#") ||
		strings.HasPrefix(suffix, "+") || strings.HasPrefix(suffix, "#") {
		return grant{template: text}, nil
	}
	return grant{prefix: prefix, suffix: suffix, bySubject: true}, nil
}

// expand substitutes the subject into a template and returns other forms unchanged. The subject must have passed
// ValidSubject, so it is a literal part of one level.
func (g grant) expand(subject string) grant {
	if g.template == "" {
		return g
	}
	return grant{filter: strings.ReplaceAll(g.template, placeholder, subject)}
}

// holds reports whether relation (message.Match or message.Covers) holds between the grant's filter and a topic, or a
// filter without $share. It does not allocate.
func (g *grant) holds(relation func(filter, s string) bool, s, subject string) bool {
	if !g.bySubject {
		return relation(g.filter, s)
	}
	rest, ok := g.cut(s, subject)
	if !ok || g.suffix == "" {
		return ok
	}
	return relation(g.suffix, rest)
}

// cut removes prefix and subject. With a suffix, rest is what follows the level of the subject; without one, ok means
// that nothing follows.
func (g *grant) cut(s, subject string) (rest string, ok bool) {
	if !strings.HasPrefix(s, g.prefix) {
		return "", false
	}
	s = s[len(g.prefix):]
	if !strings.HasPrefix(s, subject) {
		return "", false
	}
	s = s[len(subject):]
	if g.suffix == "" {
		return "", s == ""
	}
	if s == "" || s[0] != '/' {
		return "", false
	}
	return s[1:], true
}

func anyMatch(grants []grant, topic, subject string) bool {
	return anyHolds(grants, message.Match, topic, subject)
}

// anyCovers reports whether one grant matches every topic that a filter without $share matches.
func anyCovers(grants []grant, filter, subject string) bool {
	return anyHolds(grants, message.Covers, filter, subject)
}

func anyHolds(grants []grant, relation func(filter, s string) bool, s, subject string) bool {
	for i := range grants {
		if grants[i].holds(relation, s, subject) {
			return true
		}
	}
	return false
}
