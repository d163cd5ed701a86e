package presence

import (
	"bytes"
	"context"

	"cellgate/broker/shared/statefile"
)

// The state file:
//
//	presence/
//	  vehicles  VIN → entry: connected vehicles, and others with unpublished events
//	  told      (a key) the mark up to which everything is published; a sweep may have published later events
var (
	bucketPresence = []byte("presence")
	bucketVehicles = []byte("vehicles")
	keyPublished   = []byte("told")
)

func vehiclesOf(tx *statefile.Tx) *statefile.Bucket {
	return tx.Bucket(bucketPresence).Bucket(bucketVehicles)
}

// load creates the buckets and reads who was connected and what is not published.
func (b *Outbox) load() error {
	err := b.o.DB.Update(func(tx *statefile.Tx) error {
		p, err := tx.CreateBucketIfNotExists(bucketPresence)
		if err != nil {
			return err
		}
		_, err = p.CreateBucketIfNotExists(bucketVehicles)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.loadVehicles(); err != nil {
		return err
	}
	return b.forgetPublished()
}

// forgetPublished removes, if Shared, vehicles whose events are all published and whose session is not open.
func (b *Outbox) forgetPublished() error {
	for at := ""; b.o.Shared; {
		err := b.o.DB.Update(func(tx *statefile.Tx) (err error) {
			at, err = b.forgetSome(vehiclesOf(tx), at)
			return err
		})
		if err != nil || at == "" {
			return err
		}
	}
	return nil
}

// forgetSome is forgetPublished for a few vehicles from a VIN on. It returns the VIN where the next call continues, empty
// after the last.
func (b *Outbox) forgetSome(vehicles *statefile.Bucket, from string) (next string, err error) {
	const some = 1024
	var gone [][]byte
	c, looked := vehicles.Cursor(), 0
	k, v := c.Seek([]byte(from))
	for ; k != nil && looked < some; k, v = c.Next() {
		looked++
		e, err := decode(string(k), v)
		if err != nil {
			return "", err
		}
		if len(e.waiting(b.published)) == 0 && !e.open() {
			gone = append(gone, bytes.Clone(k))
		}
	}
	next = string(k)
	for _, vin := range gone {
		if err := vehicles.Delete(vin); err != nil {
			return "", err
		}
	}
	b.kept = vehicles.Keys()
	return next, nil
}

// loadVehicles reads who was connected and what is not published.
func (b *Outbox) loadVehicles() error {
	return b.o.DB.View(func(tx *statefile.Tx) error {
		if v := tx.Bucket(bucketPresence).Get(keyPublished); v != nil {
			b.published = (&reader{b: v}).mark()
		}
		b.stored, b.written = b.published, b.published
		vehicles := vehiclesOf(tx)
		b.kept = vehicles.Keys()
		return vehicles.ForEach(func(k, v []byte) error {
			e, err := decode(string(k), v)
			if err != nil {
				return err
			}
			b.loadVehicle(&e)
			return nil
		})
	})
}

func (b *Outbox) loadVehicle(e *entry) {
	last := e.last()
	if last.Kind != Disconnected && !b.o.Shared {
		b.lost[last.VIN] = struct{}{}
	}
	if b.o.Shared && e.open() {
		b.left = append(b.left, *e.latest())
	}
	if last.after(b.written) {
		b.written = last.Mark
	}
	if waiting := e.waiting(b.published); len(waiting) > 0 {
		b.spilled = true
		if b.mirror != nil {
			b.mirror.add(waiting)
		}
	}
}

type wrote struct{ kept, merged, refused int }

// commit writes a batch and removes published ends.
func (b *Outbox) commit(batch, settled []Event, published Mark) (w wrote, err error) {
	err = b.o.DB.Update(func(tx *statefile.Tx) error {
		w = wrote{}
		p, vehicles := tx.Bucket(bucketPresence), vehiclesOf(tx)
		for i := range settled {
			if err := forget(vehicles, &settled[i]); err != nil {
				return err
			}
		}
		for i := range batch {
			if err := b.append(vehicles, &batch[i], published, &w); err != nil {
				return err
			}
		}
		w.kept = vehicles.Keys()
		return p.Put(keyPublished, appendMark(nil, published))
	})
	return w, err
}

func (b *Outbox) append(vehicles *statefile.Bucket, v *Event, published Mark, w *wrote) error {
	var e entry
	if data := vehicles.Get([]byte(v.VIN)); data != nil {
		var err error
		if e, err = decode(v.VIN, data); err != nil {
			return err
		}
	} else if vehicles.Keys() >= b.o.MaxVehicles {
		w.refused++
		return nil
	}
	had := len(e.waiting(published))
	e.add(*v, published)
	w.merged += had + 1 - len(e.events)
	return vehicles.Put([]byte(v.VIN), e.encode())
}

// forget removes a vehicle whose end is published, unless it has returned.
func forget(vehicles *statefile.Bucket, end *Event) error {
	data := vehicles.Get([]byte(end.VIN))
	if data == nil {
		return nil
	}
	e, err := decode(end.VIN, data)
	if err != nil || e.latest().Mark != end.Mark {
		return err
	}
	return vehicles.Delete([]byte(end.VIN))
}

// pass is one sweep over all vehicles, after which the queue is complete again.
type pass struct {
	at    string          // the last VIN visited
	start Mark            // the last event on disk when it began
	sent  map[string]Mark // events after start that it has published
}

// sweep publishes some of the events that only the disk has. After the last vehicle it queues the events written
// meanwhile.
func (b *Outbox) sweep(ctx context.Context, p *pass) error {
	b.mu.Lock()
	published := b.published
	if p.at == "" {
		*p = pass{start: b.written, sent: map[string]Mark{}}
		b.late, b.missed = nil, false
	}
	b.mu.Unlock()
	batch, next, err := b.find(p.at, published)
	if err != nil {
		return err
	}
	if len(batch) > 0 {
		if err := b.publish(ctx, batch); err != nil {
			return err
		}
		if err := b.mark(batch); err != nil {
			return err
		}
		for i := range batch {
			if batch[i].after(p.start) {
				p.sent[batch[i].VIN] = batch[i].Mark
			}
		}
	}
	if p.at = next; next == "" {
		b.swept(p)
	}
	return nil
}

// swept ends a sweep. If too many events came meanwhile, another one follows.
func (b *Outbox) swept(p *pass) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.missed {
		return
	}
	for _, e := range b.late {
		if sent, is := p.sent[e.VIN]; !is || e.after(sent) {
			b.queue = append(b.queue, e)
		}
	}
	b.spilled, b.published, b.late = false, p.start, nil
}

const maxLook = 5000

// find returns unpublished events of vehicles after at, and the VIN after which to continue; "" is the beginning.
func (b *Outbox) find(at string, published Mark) (batch []Event, next string, err error) {
	err = b.o.DB.View(func(tx *statefile.Tx) error {
		c := vehiclesOf(tx).Cursor()
		k, v := c.First()
		if at != "" {
			if k, v = c.Seek([]byte(at)); bytes.Equal(k, []byte(at)) {
				k, v = c.Next()
			}
		}
		for looked := 0; k != nil; k, v = c.Next() {
			e, err := decode(string(k), v)
			if err != nil {
				return err
			}
			batch = append(batch, e.waiting(published)...)
			if looked++; looked >= maxLook || len(batch) >= publishBatch {
				next = string(k)
				return nil
			}
		}
		return nil
	})
	return batch, next, err
}

// mark records what a sweep has published.
func (b *Outbox) mark(batch []Event) error {
	return b.o.DB.Update(func(tx *statefile.Tx) error {
		vehicles := vehiclesOf(tx)
		for i := range batch {
			v := &batch[i]
			data := vehicles.Get([]byte(v.VIN))
			if data == nil {
				continue
			}
			e, err := decode(v.VIN, data)
			if err != nil {
				return err
			}
			if e.published = v.Mark; v.Kind == Disconnected && e.latest().Mark == v.Mark {
				err = vehicles.Delete([]byte(v.VIN))
			} else {
				err = vehicles.Put([]byte(v.VIN), e.encode())
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Last returns the latest event of a VIN, written or pending. It returns false if there is none, as after a published
// end.
func (b *Outbox) Last(vin string) (Event, bool) {
	var last Event
	b.mu.Lock()
	for i := range b.pending {
		if e := &b.pending[i]; e.VIN == vin && (last.VIN == "" || e.Place().after(last.Place())) {
			last = *e
		}
	}
	b.mu.Unlock()
	err := b.o.DB.View(func(tx *statefile.Tx) error {
		data := vehiclesOf(tx).Get([]byte(vin))
		if data == nil {
			return nil
		}
		e, err := decode(vin, data)
		if err != nil {
			return err
		}
		if v := e.latest(); last.VIN == "" || v.Place().after(last.Place()) {
			last = *v
		}
		return nil
	})
	return last, err == nil && last.VIN != ""
}
