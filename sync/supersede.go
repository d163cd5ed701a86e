package syncer

import (
	"time"

	"cellgate/broker/shared/kafkaclient"
)

func (s *Syncer) isMine(topic string, id int) bool { return s.o.Mine == nil || s.o.Mine(topic, id) }

func (s *Syncer) isSuperseded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.superseded.Owner != ""
}

// compareClaims checks the claims of this worker's partitions. A later claim belongs to a worker that began after this
// one was taken for dead: this one stops. Until it notices, records reach the centre twice, with the same src-*
// headers. An earlier claim belongs to such a predecessor that has committed once more; it is replaced.
func (s *Syncer) compareClaims(all []kafkaclient.Position) {
	for i := range all {
		seen := all[i].Claim
		s.mu.Lock()
		f := s.parts[partition{all[i].Topic, all[i].ID}]
		s.mu.Unlock()
		if f == nil || seen.Owner == "" || seen.Owner == s.o.Owner {
			continue
		}
		f.mu.Lock()
		mine := f.claim
		if f.assigned && mine.After(seen) {
			f.renew = time.Time{}
		}
		over := f.assigned && mine.Owner != "" && seen.After(mine)
		f.mu.Unlock()
		if over && s.o.Mine == nil { // otherwise Mine decides
			s.supersede(seen)
			return
		}
	}
}

func (s *Syncer) supersede(by kafkaclient.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.superseded.Owner != "" {
		return
	}
	s.superseded, s.since = by, time.Now()
	s.halt()
	for _, f := range s.parts {
		f.setAssigned(false) // the other worker reports the progress
	}
	s.o.Log.Error("another gateway has taken over the outbox; this one forwards nothing until it is restarted", "owner", by.Owner)
}
