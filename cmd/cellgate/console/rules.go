package console

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// ruleLine is a rule in force.
type ruleLine struct {
	ID, Owner, Description, File, When, Mode string
	Line                                     int
	From, Operators                          []string
	To                                       []struct{ Sink, Name, Lane string }
}

// finding is what is wrong with rules.
type finding struct {
	File, Level, Code, Rule, Message, Source, Suggestion string
	Line, Column                                         int
}

// rulesBody is the page of the rules in force.
type rulesBody struct {
	Hash, Path, Error string
	Since             time.Time
	Applied           bool
	Broken            bool `json:"files_not_in_force"`
	Rules             []ruleLine
	Warnings          []finding
	Counts            map[string]struct{ Matched, Filtered, Missing, Errors uint64 }
	Held              []struct {
		Rule, Limit string
		Since       time.Time
		Errors      uint64
		Messages    uint64
	}
	May bool
}

func (v *visit) rules() (any, error) {
	b := rulesBody{May: v.id.HasScope("rules:admin")}
	err := v.call("GET", "/v1/rules", nil, &b)
	return b, err
}

// ranSet is a rule set that ran.
type ranSet struct {
	Hash    string
	At      time.Time
	Applied bool
	InForce bool `json:"in_force"`
}

func (v *visit) ruleHistory() (any, error) {
	var b struct{ Sets []ranSet }
	err := v.call("GET", "/v1/rules/history", nil, &b)
	return b, err
}

// ranBody is the page of a rule set that ran.
type ranBody struct {
	ranSet
	Files map[string]string
	Error string
	Diff  *struct {
		Same    int
		Changes []struct {
			Rule, Kind string
			StateLost  []string `json:"state_lost"`
			Parts      []struct{ Key, Old, New string }
		}
	}
	May bool
}

func (v *visit) ranRules() (any, error) {
	b := ranBody{May: v.id.HasScope("rules:admin")}
	err := v.call("GET", "/v1/rules/history/"+url.PathEscape(v.r.PathValue("hash")), nil, &b)
	return b, err
}

func (v *visit) rollback() (text, to string, err error) {
	if err := v.call("POST", "/v1/rules/rollback", map[string]string{"hash": v.r.PostForm.Get("hash")}, nil); err != nil {
		return "", "/rules", fmt.Errorf("not rolled back: %w", err)
	}
	return "Rolled back. These rules stay in force until the rule files change or are reloaded.", "/rules", nil
}

func (v *visit) reloadRules() (text, to string, err error) {
	if err := v.call("POST", "/v1/rules/reload", nil, nil); err != nil {
		return "", "/rules", err
	}
	return "The rule files are in force.", "/rules", nil
}

func (v *visit) liftRule() (text, to string, err error) {
	rule := v.r.PostForm.Get("rule")
	if err := v.call("POST", "/v1/rules/lift", map[string]string{"rule": rule}, nil); err != nil {
		return "", "/rules", err
	}
	return rule + " sends again.", "/rules", nil
}

// playgroundBody is the playground at the start: the rules in force, and a message.
type playgroundBody struct {
	Hash           string
	Names          []string
	Name           string
	Text           string
	Topic, Payload string
	May            bool
}

// source returns the files of the rules in force.
func (v *visit) source() (hash string, files map[string]string, err error) {
	var now struct{ Hash string }
	if err := v.call("GET", "/v1/rules", nil, &now); err != nil {
		return "", nil, err
	}
	var set ranBody
	err = v.call("GET", "/v1/rules/history/"+url.PathEscape(now.Hash), nil, &set)
	return now.Hash, set.Files, err
}

func (v *visit) playground() (any, error) {
	if !v.id.HasScope("rules:admin") {
		return nil, &apiError{Status: http.StatusForbidden, Title: "the playground needs the scope rules:admin"}
	}
	hash, files, err := v.source()
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(files)), func(n string) bool { return !strings.HasSuffix(n, ".rules.yaml") })
	b := playgroundBody{
		Hash: hash, Names: names, Name: v.r.URL.Query().Get("file"), Topic: "v1/LTEST000000000001/up/telemetry",
		Payload: "{\n  \"soc\": 12,\n  \"speed\": 42.5\n}", May: v.id.HasScope("rules:admin"),
	}
	if !slices.Contains(names, b.Name) {
		b.Name = ""
		for _, n := range names { // find a rule that has something to show about that message
			if b.Name == "" || strings.Contains(n, "battery") {
				b.Name = n
			}
		}
	}
	b.Text = files[b.Name]
	b.Name = cmp.Or(b.Name, "new.rules.yaml")
	return b, nil
}

// draft is sent by the playground: a file that replaces the one of that name in force.
type draft struct {
	Topic   string `json:"topic"`
	Payload string `json:"payload"`
	File    string `json:"file"`
	Text    string `json:"text"`
}

// with puts the draft's file among those in force.
func (v *visit) with(d *draft) (map[string]string, error) {
	_, files, err := v.source()
	if err != nil {
		return nil, err
	}
	if files == nil {
		files = map[string]string{}
	}
	files[d.File] = d.Text
	return files, nil
}

// explain answers the playground while the user types: the API's answer, or the error.
func (v *visit) explain(w http.ResponseWriter) {
	var d draft
	err := json.NewDecoder(v.r.Body).Decode(&d)
	if err == nil && v.r.Header.Get("X-CSRF") != v.s.csrf {
		http.Error(w, "the form is not one of this session", http.StatusForbidden)
		return
	}
	var files map[string]string
	if err == nil {
		files, err = v.with(&d)
	}
	var answer json.RawMessage
	if err == nil {
		body := map[string]any{"topic": d.Topic, "files": files}
		if json.Valid([]byte(d.Payload)) {
			body["payload"] = json.RawMessage(d.Payload)
		} else {
			body["payload_base64"] = []byte(d.Payload)
		}
		err = v.call("POST", "/v1/rules/explain", body, &answer)
	}
	w.Header().Set("Content-Type", "application/json")
	var no *apiError
	switch {
	case errors.As(err, &no):
		_ = json.NewEncoder(w).Encode(map[string]any{"error": no.Error(), "findings": no.Findings}) //nolint:errcheck // the browser has gone
	case err != nil:
		_ = json.NewEncoder(w).Encode(map[string]any{"error": err.Error()}) //nolint:errcheck // the browser has gone
	default:
		_, _ = w.Write(answer)
	}
}

// applyRules puts the playground's rules in force.
func (v *visit) applyRules() (text, to string, err error) {
	form := v.r.PostForm
	d := draft{File: form.Get("file"), Text: strings.ReplaceAll(form.Get("text"), "\r\n", "\n")}
	files, err := v.with(&d)
	if err == nil {
		err = v.call("PUT", "/v1/rules", map[string]any{"files": files}, nil)
	}
	if err != nil {
		return "", "/playground?file=" + url.QueryEscape(d.File), fmt.Errorf("nothing has changed: %w", err)
	}
	return "In force, until the rule files change or are reloaded. The history has the previous rules.", "/rules", nil
}
