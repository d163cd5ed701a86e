package wal

import "errors"

// Salvage calls fn with every record of the log in dir that can be read, wherever the damage is, and changes nothing.
// It ignores segments of other logs and of other journals.
func Salvage(fsys FS, dir string, id Identity, fn func(data []byte) error) error {
	l := Log{fs: fsys, dir: dir, id: id, code: id.code()}
	all, err := l.list()
	if err != nil {
		return nil //nolint:nilerr // what cannot be read is what is lost
	}
	for _, n := range all {
		_, s, err := l.load(n)
		if errors.Is(err, errForeign) {
			continue
		}
		f, err := fsys.Open(l.path(n))
		if err != nil {
			continue
		}
		w := &Window{File: f, Size: s.size, Limit: s.size, Ahead: flushAt}
		if err := errors.Join(l.salvage(w, n, fn), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// salvage reads a segment whose header may be missing: it tries both offsets at which records may begin. In the old
// format a frame with damaged content is skipped by its length; after an impossible length nothing more is found.
func (l *Log) salvage(w *Window, n uint64, fn func(data []byte) error) error {
	var stop error
	found, err := Scan(w, HeaderLen, SegmentName(n), l.salt(n), 1, func(h *BatchHeader, body []byte) error {
		stop = h.EachRecord(body, func(_ int, rec []byte) error { return fn(rec) })
		return stop
	})
	if stop != nil || found.Records > 0 || err != nil {
		return stop
	}
	for off := int64(oldHeaderLen); off < w.Limit; {
		data, size, _ := w.oldFrame(off)
		if size == 0 {
			return nil
		}
		if off += size; len(data) == 0 {
			continue
		}
		if err := fn(data); err != nil {
			return err
		}
	}
	return nil
}
