package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cellgate/broker/shared/message"
)

// Bounds of a CommandLimit, whose lists are searched for every command. Longer lists of VINs are configured by name.
const (
	maxLimitNames = 64
	maxLimitVINs  = 256
)

// listMark is the prefix of the name of a list of VINs.
const listMark = "@"

// CommandLimit restricts which commands a sender may send. The zero value is no limit; an empty list that is not nil
// permits nothing. A limit only restricts other permissions; it grants nothing by itself.
type CommandLimit struct {
	// Names are the names of commands that may be sent and cancelled; nil means all.
	Names []string
	// VINs are the vehicles; @name stands for Config.VINLists[name]. nil means all.
	VINs []string
}

func (l *CommandLimit) none() bool { return l.Names == nil && l.VINs == nil }

// check reports every problem of a limit, one per line, each prefixed by the field as in "command_vins[0]: …".
func (l *CommandLimit) check() error {
	var errs []error
	list := func(field string, values []string, limit int, valid func(string) error) {
		if len(values) > limit {
			errs = append(errs, fmt.Errorf("%s: more than %d entries", field, limit))
			return
		}
		for i, v := range values {
			if err := valid(v); err != nil {
				errs = append(errs, fmt.Errorf("%s[%d]: %q: %w", field, i, v, err))
			}
		}
	}
	list("command_names", l.Names, maxLimitNames, validCommandName)
	list("command_vins", l.VINs, maxLimitVINs, func(v string) error {
		if name, ok := strings.CutPrefix(v, listMark); ok {
			return ValidListName(name)
		}
		return ValidSubject(v)
	})
	return errors.Join(errs...)
}

var errCommandName = errors.New("not the name of a command: 1 to 128 bytes without + # /")

func validCommandName(s string) error {
	if message.ValidTopic(s) != nil || len(s) > 128 || strings.Contains(s, "/") {
		return errCommandName
	}
	return nil
}

// ValidListName checks the name of a list of VINs.
func ValidListName(s string) error {
	if !roleName.MatchString(s) {
		return fmt.Errorf("the name of a list must match %s", roleName)
	}
	return nil
}

type vinLists map[string]map[string]struct{}

func newVINLists(lists map[string][]string) (vinLists, error) {
	sets := make(vinLists, len(lists))
	var errs []error
	for name, vins := range lists {
		errs = append(errs, ValidListName(name))
		set := make(map[string]struct{}, len(vins))
		for _, vin := range vins {
			errs = append(errs, ValidSubject(vin))
			set[vin] = struct{}{}
		}
		sets[name] = set
	}
	return sets, errors.Join(errs...)
}

// unknown returns the first list that a limit names and that does not exist, or "".
func (v vinLists) unknown(l *CommandLimit) string {
	for _, entry := range l.VINs {
		if name, ok := strings.CutPrefix(entry, listMark); ok && v[name] == nil {
			return name
		}
	}
	return ""
}

// allows reports whether a limit allows a command. A list that does not exist counts as empty.
func (v vinLists) allows(l *CommandLimit, vin, name string) bool {
	if l.Names != nil && !slices.Contains(l.Names, name) {
		return false
	}
	return l.VINs == nil || slices.ContainsFunc(l.VINs, func(entry string) bool {
		if list, ok := strings.CutPrefix(entry, listMark); ok {
			_, found := v[list][vin]
			return found
		}
		return entry == vin
	})
}

// senderLimit is the limit of one identity, from its token and its role.
type senderLimit struct {
	token, role CommandLimit
	lists       vinLists
}

func (s *senderLimit) allows(vin, name string) bool {
	return s == nil || s.lists.allows(&s.token, vin, name) && s.lists.allows(&s.role, vin, name)
}

// limitOf returns the limit of an identity, or nil.
func (p *policy) limitOf(id *Identity) *senderLimit {
	role := p.commands[id.Role]
	if id.Commands.none() && role.none() {
		return nil
	}
	return &senderLimit{token: id.Commands, role: role, lists: p.lists}
}

// AllowsCommand reports whether a limit allows a command from a sender without an identity, such as Kafka.
func (a *Authority) AllowsCommand(l CommandLimit, vin, name string) bool {
	return a.policy.Load().lists.allows(&l, vin, name)
}

func parseCommandLimit(obj map[string]any) (l CommandLimit, err error) {
	for claim, into := range map[string]*[]string{"command_names": &l.Names, "command_vins": &l.VINs} {
		v, found := obj[claim]
		if !found {
			continue
		}
		list, ok := v.([]any)
		if !ok {
			return l, bad("invalid " + claim)
		}
		*into = make([]string, len(list))
		for i, e := range list {
			if (*into)[i], ok = e.(string); !ok {
				return l, bad("invalid " + claim)
			}
		}
	}
	if l.check() != nil {
		return l, bad("invalid command_names or command_vins")
	}
	return l, nil
}
