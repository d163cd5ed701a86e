package conformance

import (
	"regexp"
	"slices"
	"testing"

	"cellgate/test/mqtt"
)

// statement is one numbered normative statement, in our own words.
type statement struct {
	ID      string
	Version byte
	Text    string
	// Test names the test case that covers it; empty where NotApplicable says why none does.
	Test          string
	NotApplicable string
}

func table() []statement {
	return slices.Concat(table311(), table5Packets(), table5Publish(), table5Behaviour())
}

// Reasons that apply to many statements.
const (
	ofClients = "binds clients; the gateway is a server only"
	full      = "the gateway supports all of it; connect/capabilities holds that nothing else is announced"
)

// statements turns rows of identifier, text and test or reason into the table of a version. The form of the third cell
// decides whether it is a test's name or a reason.
func statements(v byte, rows [][3]string) []statement {
	list := make([]statement, len(rows))
	for i, r := range rows {
		list[i] = statement{ID: r[0], Version: v, Text: r[1]}
		if testName.MatchString(r[2]) {
			list[i].Test = r[2]
		} else {
			list[i].NotApplicable = r[2]
		}
	}
	return list
}

var (
	testName    = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+$`)
	statementID = regexp.MustCompile(`^MQTT-[1-7](\.\d+){1,2}-\d+$`)
)

// The statements of each text.
const (
	count311 = 141
	count5   = 253
)

// checkTable checks the table: every statement once, each with a test that exists for its version or a reason, and
// every test used by a statement or marked as outside of the table.
func checkTable(t *testing.T, cases []testCase) {
	t.Helper()
	versions := map[string][]byte{}
	for _, c := range cases {
		if _, twice := versions[c.name]; twice || !testName.MatchString(c.name) {
			t.Errorf("test %s is there twice, or named unlike the others", c.name)
		}
		versions[c.name] = c.versions
	}
	type key struct {
		id      string
		version byte
	}
	seen, counts, covered := map[key]bool{}, map[byte]int{}, map[byte]int{}
	for _, s := range table() {
		k := key{s.ID, s.Version}
		switch {
		case !statementID.MatchString(s.ID) || seen[k]:
			t.Errorf("%s of %s is there twice, or no identifier", s.ID, versionName(s.Version))
		case s.Text == "" || (s.Test == "") == (s.NotApplicable == ""):
			t.Errorf("%s of %s needs a text, and either a test or a reason", s.ID, versionName(s.Version))
		case s.Test != "" && !slices.Contains(versions[s.Test], s.Version):
			t.Errorf("%s: there is no test %s for %s", s.ID, s.Test, versionName(s.Version))
		}
		seen[k] = true
		counts[s.Version]++
		if s.Test != "" {
			covered[s.Version]++
		}
	}
	for v, want := range map[byte]int{mqtt.V4: count311, mqtt.V5: count5} {
		equal(t, "statements of "+versionName(v), counts[v], want)
		t.Logf("%s: %d statements, %d covered, %d not applicable", versionName(v), counts[v], covered[v], counts[v]-covered[v])
	}
}
