package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"cellgate/auth"
	"cellgate/broker/shared/kafkaclient"
	"cellgate/broker/shared/problem"
	"cellgate/broker/shared/statefile"
	syncer "cellgate/sync"
)

// bucketPauses has the lanes that operators have paused, by centre and lane, as JSON of PausedLane.
func bucketPauses() []byte { return []byte("sync pauses") }

// routes returns the calls of the API about the lanes to the centres.
func (c *centres) routes(audited func(string, http.HandlerFunc) http.HandlerFunc) []route {
	return []route{
		{"GET", "/v1/sync", c.getSync},
		{"POST", "/v1/sync/skip", audited(auth.AuditSkip, c.skipSync)},
		{"POST", "/v1/sync/pause", audited(auth.AuditSync, func(w http.ResponseWriter, r *http.Request) { c.pauseSync(w, r, true) })},
		{"POST", "/v1/sync/resume", audited(auth.AuditSync, func(w http.ResponseWriter, r *http.Request) { c.pauseSync(w, r, false) })},
	}
}

func (c *centres) getSync(w http.ResponseWriter, _ *http.Request) {
	if c.hasCentre(w) {
		c.answer(w)
	}
}

func (c *centres) answer(w http.ResponseWriter) {
	skipped, err := c.skips()
	var paused []PausedLane
	if err == nil {
		paused, err = c.pauses()
	}
	if err != nil {
		problem.Write(w, http.StatusInternalServerError, "", err.Error(), nil)
		return
	}
	writeJSON(w, http.StatusOK, SyncAnswer{Lanes: c.lanes(), Paused: paused, Skipped: skipped})
}

func (c *centres) hasCentre(w http.ResponseWriter) bool {
	if len(c.all) == 0 {
		problem.Write(w, http.StatusNotFound, "", "this gateway has no sync worker: its configuration has no section central", nil)
	}
	return len(c.all) > 0
}

// choose returns the centres and the lane that a call is about; without parameters, all. It answers on an error.
func (c *centres) choose(w http.ResponseWriter, r *http.Request) (chosen []*centre, lane string, ok bool) {
	body := struct {
		Lane   string `json:"lane"`
		Centre string `json:"centre"`
	}{}
	if !c.hasCentre(w) || !readJSON(w, r, &body) {
		return nil, "", false
	}
	if lanes := syncer.LaneNames(); body.Lane != "" && !slices.Contains(lanes[:], body.Lane) {
		problem.Write(w, http.StatusBadRequest, "", fmt.Sprintf("lane %q: want p0, p1 or p2, or none for all", body.Lane), nil)
		return nil, "", false
	}
	var names []string
	for _, one := range c.all {
		names = append(names, one.name)
		if body.Centre == "" || body.Centre == one.name {
			chosen = append(chosen, one)
		}
	}
	if len(chosen) == 0 {
		problem.Write(w, http.StatusBadRequest, "", fmt.Sprintf("centre %q: want %s, or none for all", body.Centre, strings.Join(names, " or ")), nil)
		return nil, "", false
	}
	return chosen, body.Lane, true
}

// pauseSync pauses or resumes lanes. The change is on disk before it takes effect, and so survives restarts.
func (c *centres) pauseSync(w http.ResponseWriter, r *http.Request, pause bool) {
	chosen, only, ok := c.choose(w, r)
	if !ok {
		return
	}
	by, at := auth.CallerOf(r).By, time.Now().UTC()
	err := c.db.Update(func(tx *statefile.Tx) error {
		b := tx.Bucket(bucketPauses())
		return eachLane(chosen, only, func(one *centre, lane string) error {
			key := []byte(one.name + "/" + lane)
			switch {
			case !pause:
				return b.Delete(key)
			case b.Get(key) != nil:
				return nil // keep who paused it first
			}
			value, err := json.Marshal(PausedLane{one.name, lane, at, by})
			if err != nil {
				return err
			}
			return b.Put(key, value)
		})
	})
	if err != nil {
		problem.Write(w, http.StatusServiceUnavailable, "nothing was changed", err.Error(), nil)
		return
	}
	_ = eachLane(chosen, only, func(one *centre, lane string) error {
		one.get().Pause(lane, pause)
		return nil
	})
	c.answer(w)
}

func eachLane(chosen []*centre, only string, do func(one *centre, lane string) error) error {
	for _, one := range chosen {
		for _, lane := range syncer.LaneNames() {
			if only != "" && only != lane {
				continue
			}
			if err := do(one, lane); err != nil {
				return err
			}
		}
	}
	return nil
}

// pauses returns the paused lanes.
func (c *centres) pauses() (all []PausedLane, err error) {
	err = c.db.View(func(tx *statefile.Tx) error {
		return tx.Bucket(bucketPauses()).ForEach(func(_, value []byte) error {
			var p PausedLane
			if err := json.Unmarshal(value, &p); err != nil {
				return err
			}
			all = append(all, p)
			return nil
		})
	})
	return all, err
}

// paused returns which lanes of a centre are paused.
func (c *centres) paused(centre string) (lanes [kafkaclient.FlowLanes]bool, err error) {
	all, err := c.pauses()
	for _, p := range all {
		for i, name := range syncer.LaneNames() {
			lanes[i] = lanes[i] || (p.Centre == centre && p.Lane == name)
		}
	}
	return lanes, err
}
