package harness

import (
	"encoding/json"
	"fmt"

	"cellgate/cmd/cellgate/fleet"
)

// Acked is the fleet's ledger: the acknowledged sequence numbers per VIN.
type Acked map[string]map[int64]bool

// Len returns the number of acknowledged messages.
func (a Acked) Len() int {
	n := 0
	for _, seqs := range a {
		n += len(seqs)
	}
	return n
}

// ReadFleetLedger reads the file of `cellgate fleet --ledger`.
func ReadFleetLedger(file string) (Acked, error) {
	acked := Acked{}
	_, err := fleet.EachEntry(file, func(e fleet.Entry) {
		if acked[e.VIN] == nil {
			acked[e.VIN] = map[int64]bool{}
		}
		acked[e.VIN][int64(e.Seq)] = true
	})
	return acked, err
}

// Audit is the result of comparing the fleet's ledger with Kafka.
type Audit struct {
	Acked      int // acknowledged messages in the ledger
	Records    int // records in Kafka, duplicates included
	Duplicates int // records whose message is already in an earlier record
	Lost       []string
	Reordered  []string
	// TwoIDs are messages that arrived more than once with different msg-ids.
	TwoIDs []string
}

// Err returns nil if nothing was lost or reordered and no message has two msg-ids.
func (a Audit) Err() error {
	if len(a.Lost)+len(a.Reordered)+len(a.TwoIDs) == 0 {
		return nil
	}
	return fmt.Errorf("of %d acknowledged: %d lost %v, %d out of order %v, %d with two ids %v", a.Acked, len(a.Lost), head(a.Lost),
		len(a.Reordered), head(a.Reordered), len(a.TwoIDs), head(a.TwoIDs))
}

func head(s []string) []string { return s[:min(5, len(s))] }

func (a Audit) String() string {
	return fmt.Sprintf("%d acknowledged, %d records, %d duplicates, %d lost, %d out of order, %d with two ids",
		a.Acked, a.Records, a.Duplicates, len(a.Lost), len(a.Reordered), len(a.TwoIDs))
}

// AuditTelemetry compares the ledger with the records in Kafka, per VIN in partition order: every acknowledged message
// must be there, first occurrences of a vehicle's messages must be in order, and duplicates must have the same msg-id.
func AuditTelemetry(acked Acked, records []Record) (Audit, error) {
	a := NewAuditor(acked)
	for _, r := range records {
		a.Add(r)
	}
	return a.Audit()
}

// Auditor is the streaming form of AuditTelemetry. It does not keep the records.
type Auditor struct {
	acked Acked
	audit Audit
	seen  map[string]*auditedVehicle
	err   error
}

type auditedVehicle struct {
	ids  map[int64]string
	last int64
}

// NewAuditor starts an audit against a fleet's ledger.
func NewAuditor(acked Acked) *Auditor {
	return &Auditor{acked: acked, audit: Audit{Acked: acked.Len()}, seen: map[string]*auditedVehicle{}}
}

// Add adds the next record of its partition.
func (a *Auditor) Add(r Record) {
	a.audit.Records++
	var payload struct {
		Seq *int64 `json:"seq"`
	}
	if err := json.Unmarshal(r.Value, &payload); err != nil || payload.Seq == nil {
		a.err = fmt.Errorf("%s/%d@%d: no seq in %q: %w", r.Topic, r.Partition, r.Offset, r.Value, err)
		return
	}
	v := a.seen[r.Key]
	if v == nil {
		v = &auditedVehicle{ids: map[int64]string{}}
		a.seen[r.Key] = v
	}
	name := func() string { return fmt.Sprintf("%s/%d", r.Key, *payload.Seq) }
	switch id, again := v.ids[*payload.Seq]; {
	case again && id != r.Headers["msg-id"]:
		a.audit.TwoIDs = append(a.audit.TwoIDs, name())
	case again:
		a.audit.Duplicates++
	default:
		if *payload.Seq < v.last {
			a.audit.Reordered = append(a.audit.Reordered, fmt.Sprintf("%s after %d", name(), v.last))
		}
		v.ids[*payload.Seq], v.last = r.Headers["msg-id"], *payload.Seq
	}
}

// Audit returns the result.
func (a *Auditor) Audit() (Audit, error) {
	for vin, seqs := range a.acked {
		for seq := range seqs {
			if a.seen[vin] == nil || a.seen[vin].ids[seq] == "" {
				a.audit.Lost = append(a.audit.Lost, fmt.Sprintf("%s/%d", vin, seq))
			}
		}
	}
	return a.audit, a.err
}
