package workbench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cellgate/broker/shared/message"
	"cellgate/rules/engine"
	"cellgate/rules/lang"
	"cellgate/rules/op"
	"cellgate/rules/state"
)

// Sketch describes a new rule.
type Sketch struct {
	ID, Owner, Description string
	Class                  string // of the messages, as in v1/+/up/{class}
	When                   string // "": every message
	Topic                  string // Kafka topic
	Payload                string // of a message that the rule matches
}

// errExists means that a file of the new rule already exists.
var errExists = errors.New("the file already exists")

// errSketch means that the rule does not do what its sketch says.
var errSketch = errors.New("the rule is not written")

// New writes a rule and its test into a folder and returns the names of the files. The rule compiles and the test
// passes.
func New(dir string, s *Sketch, o ToolOptions) (names []string, err error) {
	rule := s.rule()
	set, found := lang.Compile(lang.NewSource(map[string][]byte{s.ID + lang.RulesSuffix: []byte(rule)}), o.Options)
	if err := found.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", errSketch, err)
	}
	test, err := s.test(set)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{s.ID + lang.RulesSuffix: rule, s.ID + lang.TestSuffix: test}
	for _, name := range []string{s.ID + lang.RulesSuffix, s.ID + lang.TestSuffix} {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // rules are for others to read
		if errors.Is(err, fs.ErrExist) {
			return names, fmt.Errorf("rules: %s: %w; choose another --id", path, errExists)
		}
		if err != nil {
			return names, fmt.Errorf("rules: %w", err)
		}
		_, err = f.WriteString(texts[name])
		if err = errors.Join(err, f.Close()); err != nil {
			return names, fmt.Errorf("rules: %s: %w", path, err)
		}
		names = append(names, path)
	}
	return names, nil
}

func (s *Sketch) rule() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# yaml-language-server: $schema=%s\nrules:\n  - id: %s\n", schemaFile, s.ID)
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "    %s: %s\n", key, quoted(value))
		}
	}
	line("owner", s.Owner)
	line("description", s.Description)
	fmt.Fprintf(&b, "    from: [%q]\n", "v1/+/up/"+s.Class)
	line("when", s.When)
	fmt.Fprintf(&b, "    to:\n      - kafka: {topic: %s}\n", s.Topic)
	return b.String()
}

// quoted returns a text as a YAML scalar.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// test returns the text of the test file: the sketch's message, and with a condition one that does not match.
func (s *Sketch) test(set *lang.Set) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "tests:\n  - name: %s sends what it is for\n    topic: v1/${vin}/up/%s\n    rules: [%s]\n    steps:\n", s.ID, s.Class, s.ID)
	out, err := s.outcome(set, s.Payload)
	switch {
	case err != nil:
		return "", err
	case out == "":
		return "", fmt.Errorf("%w: its condition is false for %s; give another --payload or --when", errSketch, s.Payload)
	}
	fmt.Fprintf(&b, "      - payload: %s\n        expect:\n          - {rule: %s, kafka: {topic: %s}}\n", quoted(s.Payload), s.ID, s.Topic)
	if out, err := s.outcome(set, "{}"); err == nil && out == "" {
		b.WriteString("      - payload: {}\n        expect: none\n")
	}
	return b.String(), nil
}

// outcome returns the topic that a message goes to, "" if it does not match.
func (s *Sketch) outcome(set *lang.Set, payload string) (string, error) {
	w := engine.NewEngine(set, state.NewState(state.StateOptions{})).NewWorker()
	rec := message.Record{
		Seq: 1, Kind: message.KindPublish, QoS: 1, ReceivedAt: defaultTestStart, Client: defaultTestVIN,
		Topic: "v1/" + defaultTestVIN + "/up/" + s.Class, Payload: []byte(payload),
	}
	ds := w.Eval(&rec, nil)
	if len(ds) == 0 {
		return "", nil
	}
	if ds[0].Err != "" {
		return "", fmt.Errorf("%w: on %s: %s", errSketch, strconv.Quote(payload), ds[0].Err)
	}
	var r op.Rendered
	if err := w.Render(ds[0], &rec, &r); err != nil {
		return "", fmt.Errorf("%w: on %s: %w", errSketch, strconv.Quote(payload), err)
	}
	return r.Topic, nil
}
