package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"cellgate/broker/shared/problem"
	"cellgate/rules/doc"
	"cellgate/rules/lang"
	"cellgate/rules/sink"
)

// RuleFiles are rules, their zone and table files, and the tests next to them, sent by an operator, by file name.
type RuleFiles struct {
	Files map[string]string `json:"files"`
	// AllowEmpty permits a set without rules.
	AllowEmpty bool `json:"allow_empty,omitempty"`
	// Strict refuses rules with warnings.
	Strict bool `json:"strict,omitempty"`
}

// Errors in the files sent by an operator.
var (
	errFileName   = errors.New("is not a file of rules, tests, zones or tables")
	errUnusedData = errors.New("is not the file of a zone or table")
)

// folder divides the files into tests and rules with their zones and tables.
func (f *RuleFiles) folder() (*lang.Folder, error) {
	rules, tests, data := map[string][]byte{}, map[string][]byte{}, map[string][]byte{}
	for name, text := range f.Files {
		clean := path.Clean(name) == name && !path.IsAbs(name) && !strings.HasPrefix(name, "..")
		switch {
		case clean && strings.HasSuffix(name, lang.RulesSuffix):
			rules[name] = []byte(text)
		case clean && strings.HasSuffix(name, lang.TestSuffix):
			tests[name] = []byte(text)
		case clean && lang.IsData(name):
			data[name] = []byte(text)
		default:
			return nil, fmt.Errorf("%q %w: names end with %s or %s, those of data with .csv, .geojson or .json", name, errFileName, lang.RulesSuffix, lang.TestSuffix)
		}
	}
	if max(len(rules), len(tests)) > lang.MaxFiles {
		return nil, fmt.Errorf("%w: more than %d", lang.ErrTooManyFiles, lang.MaxFiles)
	}
	err := lang.AddData(rules, func(name string, _ int64) ([]byte, error) {
		if text, ok := data[name]; ok {
			return text, nil
		}
		return nil, fs.ErrNotExist
	})
	if err != nil {
		return nil, err
	}
	for name := range data {
		if _, used := rules[name]; !used {
			return nil, fmt.Errorf("%q %w", name, errUnusedData)
		}
	}
	return &lang.Folder{Source: lang.NewSource(rules), Tests: lang.NewSource(tests)}, nil
}

// applyGiven checks and tests rules that came over the API and puts them in force instead of the files. They stay in
// force until the files change or a reload is requested: the last change wins, and unchanged files never replace what
// an operator has applied.
func (k *ruleKeeper) applyGiven(ctx context.Context, f *lang.Folder, o prepareOptions) error {
	k.applying.Lock()
	defer k.applying.Unlock()
	set, err := f.Compile(k.options)
	if errors.Is(err, lang.ErrNoFiles) && o.allowEmpty {
		var found doc.Diagnostics
		set, found = lang.Compile(f.Source, k.options)
		err = found.Err()
	}
	if err != nil {
		return err
	}
	if running := k.current(); len(set.Compiled) == 0 && !o.allowEmpty && running != nil && len(running.Compiled) > 0 {
		return fmt.Errorf("%w; to run without rules give --allow-empty", lang.ErrAllRulesGone)
	}
	if o.strict && len(set.Warnings) > 0 {
		return set.Warnings
	}
	if o.tests {
		if err := k.test(ctx, f); err != nil {
			return err
		}
	}
	k.mu.Lock()
	instead := over{Ignored: k.files, Applied: true}
	if k.files == set.Hash() {
		instead = over{}
	}
	k.mu.Unlock()
	err = k.put(ctx, &candidate{f.Source, set}, instead)
	if err == nil {
		k.recordOutcome(instead.reason())
	}
	return err
}

// liftRule lets a rule that is held by its limit send again.
func (a *gateway) liftRule(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Rule string `json:"rule"`
	}
	if !readJSON(w, r, &body) {
		return
	}
	switch err := a.dispatch.Lift(r.Context(), body.Rule); {
	case errors.Is(err, sink.ErrNotHeld):
		problem.Write(w, http.StatusConflict, "", fmt.Sprintf("rule %q is not held by a limit", body.Rule), nil)
	case err != nil:
		problem.Write(w, http.StatusServiceUnavailable, "the limit was not lifted", err.Error(), nil)
	default:
		writeJSON(w, http.StatusOK, a.rules.state())
	}
}

// putRules puts the rules of the request in force.
func (a *gateway) putRules(w http.ResponseWriter, r *http.Request) {
	var body RuleFiles
	if !readJSON(w, r, &body) {
		return
	}
	f, err := body.folder()
	if err != nil {
		problem.Write(w, http.StatusBadRequest, "", err.Error(), nil)
		return
	}
	a.changeRules(w, r, func(ctx context.Context) error {
		return a.rules.applyGiven(ctx, f, prepareOptions{a.rules.runTests(), body.AllowEmpty, body.Strict})
	})
}
