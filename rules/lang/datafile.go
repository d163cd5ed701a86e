package lang

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"cellgate/rules/doc"
	"cellgate/rules/expr"
)

// Bounds of the files of zones and tables, which a set is stored with.
const (
	// MaxDataBytes is the largest file of a zone or table, maxSetDataBytes the most that those of one set have together.
	MaxDataBytes    = 4 << 20
	maxSetDataBytes = 32 << 20
	// maxNamed bounds the zones, and the tables, of one rule file.
	maxNamed = 256
)

// ErrDataTooLarge says that the files of zones and tables are larger than a set may be.
var ErrDataTooLarge = fmt.Errorf("a file of a zone or table larger than %d MiB, or all of them larger than %d MiB", MaxDataBytes>>20, maxSetDataBytes>>20)

// IsData reports whether a file of a source is that of a zone or table, and not of rules.
func IsData(name string) bool {
	return strings.HasSuffix(name, ".csv") || strings.HasSuffix(name, ".geojson") || strings.HasSuffix(name, ".json")
}

// AddData adds to the files of a rule set those that their zones and tables name, each under its path as it is resolved against the
// rule file's. read is given that path. A file that is not there is left out: Compile tells where it is named.
func AddData(files map[string][]byte, read func(name string, limit int64) ([]byte, error)) error {
	total := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, ref := range references(files[name]) {
			at, ok := dataPath(name, ref)
			if _, known := files[at]; known || !ok {
				continue
			}
			b, err := read(at, MaxDataBytes)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if total += len(b); len(b) > MaxDataBytes || total > maxSetDataBytes {
				return fmt.Errorf("%s: %w", at, ErrDataTooLarge)
			}
			files[at] = b
		}
	}
	return nil
}

// dataPath is the path of a file that a rule file names; false when it is not beside the rule file or below.
func dataPath(ruleFile, ref string) (string, bool) {
	if !IsData(ref) || path.IsAbs(ref) || strings.HasPrefix(path.Clean(ref), "..") {
		return "", false
	}
	return path.Join(path.Dir(ruleFile), ref), true
}

// references are the files that a rule file's zones and tables name.
func references(text []byte) []string {
	if !strings.Contains(string(text), "zones:") && !strings.Contains(string(text), "tables:") {
		return nil
	}
	d := doc.New("", text, func(doc.Diagnostic) {}, "a rule file", fileKeys()...)
	o, ok := d.Root()
	if !ok {
		return nil
	}
	var refs []string
	for _, key := range []string{"zones", "tables"} {
		if n, ok := o.Values[key]; ok {
			entries, _ := d.Entries(n, key)
			for _, e := range entries {
				if s, ok := fileOf(d, e); ok {
					refs = append(refs, s.Value)
				}
			}
		}
	}
	return refs
}

// fileOf is the file that a zone or table names.
func fileOf(d *doc.Document, e doc.Entry) (doc.Scalar, bool) {
	entries, _ := d.Silent().Entries(e.Value, "a file")
	for _, e := range entries {
		if e.Key.Value == "file" {
			return d.Silent().Scalar(e.Value, "a file")
		}
	}
	return doc.Scalar{}, false
}

// named are the entries of zones or tables, within the bound.
func (f *ruleFile) named(o *doc.Object, key string) []doc.Entry {
	n, ok := o.Values[key]
	if !ok {
		return nil
	}
	f.doc.Rule = "file"
	entries, _ := f.doc.Entries(n, strconv.Quote(key))
	if len(entries) > maxNamed {
		f.doc.FailAt(n, doc.CodeTooLarge, "put them into several rule files", "more than %d %s", maxNamed, key)
		return nil
	}
	return entries
}

func (f *ruleFile) readZones(o *doc.Object, files map[string][]byte) {
	for _, e := range f.named(o, "zones") {
		f.doc.Rule = "zone " + e.Key.Value
		f.checkName(e.Key)
		f.places[e.Key.Value] = &expr.Place{Name: e.Key} // what is wrong with it is told once
		s, fromFile := fileOf(f.doc, e)
		if !fromFile {
			if p := expr.ReadPlace(f.doc, e); p != nil {
				f.places[e.Key.Value] = p
			}
			continue
		}
		if _, ok := f.doc.Object(e.Value, "a zone of a file", "file"); !ok {
			continue
		}
		at, data, ok := f.data(s, files, ".geojson", ".json")
		if !ok {
			continue
		}
		p, line, err := expr.ParsePlace(e.Key, data)
		if err != nil {
			f.reportData(at, data, line, doc.CodeBadGeofence, err)
			continue
		}
		f.places[e.Key.Value] = p
	}
}

func (f *ruleFile) readTables(o *doc.Object, files map[string][]byte) {
	for _, e := range f.named(o, "tables") {
		f.doc.Rule = "table " + e.Key.Value
		f.checkName(e.Key)
		f.tables[e.Key.Value] = &expr.Table{Name: e.Key} // the same
		t, ok := f.doc.Object(e.Value, "a table", "file", "key")
		if !ok {
			continue
		}
		for _, key := range []string{"file", "key"} {
			if !t.Has(key) {
				t.Missing(key, "for example {file: models.csv, key: vin}: the file has a column vin, by which its rows are found")
			}
		}
		s, okFile := t.Text("file")
		key, okKey := t.Text("key")
		if !okFile || !okKey {
			continue
		}
		at, data, ok := f.data(s, files, ".csv")
		if !ok {
			continue
		}
		table, line, err := expr.ParseTable(e.Key, key.Value, data)
		if err != nil {
			f.reportData(at, data, line, doc.CodeBadTable, err)
			continue
		}
		f.tables[e.Key.Value] = table
	}
}

// data is the contents of a file that a zone or table names.
func (f *ruleFile) data(s doc.Scalar, files map[string][]byte, suffixes ...string) (name string, data []byte, ok bool) {
	if !slices.ContainsFunc(suffixes, func(suffix string) bool { return strings.HasSuffix(s.Value, suffix) }) {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadTable, "name the file so, for example depots"+suffixes[0], "%q does not end with %s", s.Value, strings.Join(suffixes, " or "))
		return "", nil, false
	}
	name, ok = dataPath(f.name, s.Value)
	if !ok {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadTable, "put it beside the rule file, or into a folder below it", "%q lies outside of the rule file's folder", s.Value)
		return "", nil, false
	}
	data, ok = files[name]
	if !ok {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadTable, "put it beside the rule file, or into a folder below it", "there is no file %q", s.Value)
	}
	return name, data, ok
}

// reportData reports what is wrong in such a file, with its line.
func (f *ruleFile) reportData(name string, data []byte, line int, code doc.Code, err error) {
	display := path.Join(strings.TrimSuffix(f.doc.File, f.name), name)
	d := doc.New(display, data, f.report, "a data file")
	d.Rule = f.doc.Rule
	d.Fail(line, 1, code, "mend the file, or take it out", "%s", err.Error())
}
