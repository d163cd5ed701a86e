package fleet

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Ledger records what the gateway has acknowledged: a text file with a line "VIN SEQ" per message, appended and fsynced
// in groups. Audits check that every message in it is found downstream of the gateway.
type Ledger struct {
	file *os.File
	last map[string]uint64 // highest sequence per VIN that the file held when it was opened

	mu    sync.Mutex
	room  *sync.Cond // signalled when the buffer has been taken
	work  *sync.Cond // signalled when the buffer has data, or at the end
	buf   []byte
	err   error // sticky
	ended bool
	done  chan struct{}
}

// Entry is one acknowledged message.
type Entry struct {
	VIN string
	Seq uint64
}

const (
	maxLedgerBuffer = 1 << 20 // bytes: Append waits while this much is not on disk
	ledgerGroup     = 5 * time.Millisecond
)

// OpenLedger opens or creates the file for appending. It truncates an incomplete last line left by a crash.
func OpenLedger(name string) (*Ledger, error) {
	last := make(map[string]uint64)
	size, err := EachEntry(name, func(e Entry) { last[e.VIN] = max(last[e.VIN], e.Seq) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // an audit file for everyone
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(size, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l := &Ledger{file: f, last: last, done: make(chan struct{})}
	l.room, l.work = sync.NewCond(&l.mu), sync.NewCond(&l.mu)
	go l.flush()
	return l, nil
}

// EachEntry calls take with the entries of a ledger in order, and returns the bytes of whole lines. It ignores an
// incomplete last line.
func EachEntry(name string, take func(Entry)) (size int64, err error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return size, nil //nolint:nilerr // end of file, or an incomplete last line
		}
		e, err := parseEntry(line)
		if err != nil {
			return 0, fmt.Errorf("%s: byte %d: %w", name, size, err)
		}
		size += int64(len(line))
		take(e)
	}
}

func parseEntry(line string) (Entry, error) {
	f := strings.Fields(line)
	if len(f) != 2 {
		return Entry{}, fmt.Errorf("not a ledger line: %q", line)
	}
	seq, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return Entry{}, fmt.Errorf("not a ledger line: %q", line)
	}
	return Entry{VIN: f[0], Seq: seq}, nil
}

// Last returns the vehicle's highest sequence when the file was opened, 0 if it had none.
func (l *Ledger) Last(vin string) uint64 { return l.last[vin] }

// Append adds acknowledged messages. It waits while too much is not on disk yet.
func (l *Ledger) Append(entries []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.buf) > maxLedgerBuffer && l.err == nil && !l.ended {
		l.room.Wait()
	}
	if l.err != nil || l.ended {
		return
	}
	for _, e := range entries {
		l.buf = append(append(l.buf, e.VIN...), ' ')
		l.buf = append(strconv.AppendUint(l.buf, e.Seq, 10), '\n')
	}
	l.work.Signal()
}

// Err returns the error that ended the ledger, if one did.
func (l *Ledger) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close writes what is left, fsyncs and closes the file.
func (l *Ledger) Close() error {
	l.mu.Lock()
	l.ended = true
	l.work.Signal()
	l.mu.Unlock()
	<-l.done
	return errors.Join(l.Err(), l.file.Close())
}

// flush writes and fsyncs groups until the end.
func (l *Ledger) flush() {
	defer close(l.done)
	var out []byte
	for {
		l.mu.Lock()
		for len(l.buf) == 0 && !l.ended {
			l.work.Wait()
		}
		out, l.buf = l.buf, out[:0]
		ended := l.ended
		l.room.Broadcast()
		l.mu.Unlock()
		if len(out) > 0 {
			if err := l.write(out); err != nil {
				return
			}
		} else if ended {
			return
		}
		if !ended {
			time.Sleep(ledgerGroup)
		}
	}
}

func (l *Ledger) write(b []byte) error {
	_, err := l.file.Write(b)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		l.mu.Lock()
		l.err = fmt.Errorf("ledger: %w", err)
		l.room.Broadcast()
		l.mu.Unlock()
	}
	return err
}
