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

// Bounds of the files of zones and tables, which are stored with a set.
const (
	// MaxDataBytes bounds one file of a zone or table, maxSetDataBytes all files of a set together.
	MaxDataBytes    = 4 << 20
	maxSetDataBytes = 32 << 20
	// maxNamed bounds the zones of one rule file, and the tables.
	maxNamed = 256
)

// ErrDataTooLarge means that the files of zones and tables exceed the bounds of a set.
var ErrDataTooLarge = fmt.Errorf("a file of a zone or table larger than %d MiB, or all of them larger than %d MiB", MaxDataBytes>>20, maxSetDataBytes>>20)

// IsData reports whether a file of a source is of a zone or table, not of rules.
func IsData(name string) bool {
	return strings.HasSuffix(name, ".csv") || strings.HasSuffix(name, ".geojson") || strings.HasSuffix(name, ".json")
}

// AddData adds the files that the zones and tables of a rule set name to files. Paths are relative to the rule file;
// read gets the resolved path. Missing files are left out: Compile reports them.
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

// dataPath returns the path of a file that a rule file names; false if it is not in the rule file's folder or below.
func dataPath(ruleFile, ref string) (string, bool) {
	if !IsData(ref) || path.IsAbs(ref) || strings.HasPrefix(path.Clean(ref), "..") {
		return "", false
	}
	return path.Join(path.Dir(ruleFile), ref), true
}

// references returns the files that a rule file's zones and tables name.
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

func fileOf(d *doc.Document, e doc.Entry) (doc.Scalar, bool) {
	entries, _ := d.Silent().Entries(e.Value, "a file")
	for _, e := range entries {
		if e.Key.Value == "file" {
			return d.Silent().Scalar(e.Value, "a file")
		}
	}
	return doc.Scalar{}, false
}

// named returns the entries of zones or tables; none if there are too many.
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
		f.places[e.Key.Value] = &expr.Place{Name: e.Key} // even if it has errors, so that its uses are not reported too
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
		f.tables[e.Key.Value] = &expr.Table{Name: e.Key} // even if it has errors, so that its uses are not reported too
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

// data returns the contents of a file that a zone or table names.
func (f *ruleFile) data(s doc.Scalar, files map[string][]byte, suffixes ...string) (name string, data []byte, ok bool) {
	if !slices.ContainsFunc(suffixes, func(suffix string) bool { return strings.HasSuffix(s.Value, suffix) }) {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadTable, "name the file so, for example depots"+suffixes[0], "%q does not end with %s", s.Value, strings.Join(suffixes, " or "))
		return "", nil, false
	}
	name, ok = dataPath(f.name, s.Value)
	if !ok {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadTable, "put it next to the rule file, or into a folder below", "%q is outside of the rule file's folder", s.Value)
		return "", nil, false
	}
	data, ok = files[name]
	if !ok {
		f.doc.Fail(s.Line, s.Col, doc.CodeBadTable, "put it next to the rule file, or into a folder below", "there is no file %q", s.Value)
	}
	return name, data, ok
}

// reportData reports an error in such a file, with its line.
func (f *ruleFile) reportData(name string, data []byte, line int, code doc.Code, err error) {
	display := path.Join(strings.TrimSuffix(f.doc.File, f.name), name)
	d := doc.New(display, data, f.report, "a data file")
	d.Rule = f.doc.Rule
	d.Fail(line, 1, code, "fix the file, or remove it", "%s", err.Error())
}
