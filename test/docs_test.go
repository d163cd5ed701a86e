package test

import (
	"go/constant"
	"go/types"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestReasonCodesAreDocumented holds the tables of refusals in docs/ against the reason codes that the code uses: vehicles learn what each
// one means and what to do, and look out for none that never comes.
func TestReasonCodesAreDocumented(t *testing.T) {
	t.Parallel()
	s := loadSource(t)
	const broker = module + "broker"
	for page, sent := range map[string]map[byte]string{
		"vehicles.md": s.refusals("Reason", broker, broker+"/session"),
		"services.md": s.refusals("reason", broker+"/command"),
	} {
		told := documented(t, page)
		for _, code := range slices.Sorted(maps.Keys(sent)) {
			if !told[code] {
				t.Errorf("docs/%s says nothing of %#x, %s", page, code, sent[code])
			}
			delete(told, code)
		}
		for _, code := range slices.Sorted(maps.Keys(told)) {
			t.Errorf("docs/%s has %#x, which no code uses", page, code)
		}
	}
}

// refusals are the reason codes of 0x80 and above that the packages use, with the names of their constants.
func (s *source) refusals(prefix string, packages ...string) map[byte]string {
	found := map[byte]string{}
	for _, c := range s.packages {
		if !slices.Contains(packages, c.path) {
			continue
		}
		for _, o := range c.info.Uses {
			k, is := o.(*types.Const)
			if !is || !strings.HasPrefix(k.Name(), prefix) || k.Val().Kind() != constant.Int {
				continue
			}
			if v, exact := constant.Uint64Val(k.Val()); exact && v >= 0x80 && v <= 0xff {
				found[byte(v)] = k.Name()
			}
		}
	}
	return found
}

// documented are the codes in a page's tables.
func documented(t *testing.T, page string) map[byte]bool {
	t.Helper()
	text := check.Read(t, filepath.Join("..", "docs", page))
	codes := map[byte]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\|.*$`).FindAllString(string(text), -1) {
		for _, code := range regexp.MustCompile(`0x[0-9A-F]{2}`).FindAllString(row, -1) {
			v, err := strconv.ParseUint(code, 0, 8)
			check.OK(t, err)
			if v >= 0x80 {
				codes[byte(v)] = true
			}
		}
	}
	return codes
}
