package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
	"unicode/utf8"

	"cellgate/cmd/cellgate/human"

	"github.com/spf13/cobra"

	"cellgate/broker/journal"
	"cellgate/broker/shared/message"
	"cellgate/cmd/cellgate/fleet"
)

func journalCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal",
		Short: "inspect a journal, also while the gateway runs",
		Long: `journal reads a journal directory and changes nothing. If a gateway is using the journal, the output shows the state
at the time of reading.`,
		Example: "  cellgate journal stat data/journal",
	}
	cmd.AddCommand(journalStatCommand(c), journalVerifyCommand(c), journalDumpCommand(c))
	return cmd
}

func journalStatCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stat DIR",
		Short:   "summarize a journal from its segments' headers",
		Example: "  cellgate journal stat data/journal --json",
		Args:    takes("DIR"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.inspectJournal(args[0], journal.Inspect) },
	}
	c.jsonFlag(cmd)
	return cmd
}

func journalVerifyCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "check every batch of a journal",
		Long: `verify reads and checks every batch of every segment, and shows each damaged place. The exit code is 1 if there is
damage. An incomplete last batch is normal after a crash and does not count as damage.`,
		Example: "  cellgate journal verify data/journal",
		Args:    takes("DIR"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.inspectJournal(args[0], journal.Verify) },
	}
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) inspectJournal(dir string, inspect func(string) (journal.Report, error)) error {
	r, err := inspect(dir)
	if err != nil {
		return journalError(dir, err)
	}
	if err := c.print(reportOf(&r), func(p *printer) { printJournal(p, &r) }); err != nil {
		return err
	}
	if len(r.Corruptions) > 0 {
		return silentError{}
	}
	return nil
}

func journalError(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: no journal in %s; `cellgate dev` keeps its own in {data}/journal, `cellgate run` where uplink.journal.dir says", dir)
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("journal: %w", fileError(dir, err))
	}
	return err
}

func printJournal(p *printer, r *journal.Report) {
	head := table{}
	head.row("directory", r.Dir)
	head.row("epoch", fmt.Sprint(r.Epoch))
	records := "none"
	if r.Last >= r.First && r.Last > 0 {
		records = fmt.Sprintf("%s (%s to %s)", fleet.Count(r.Last-r.First+1), fleet.Count(r.First), fleet.Count(r.Last))
	}
	head.row("records", records)
	head.row("size", fmt.Sprintf("%s in %s and %d spare", human.Size(r.Bytes), many(len(r.Segments), "segment", "segments"), r.Spares))
	torn := "none"
	if r.TornBytes > 0 {
		torn = human.Size(r.TornBytes) + ": a batch that a crash stopped, or that a running gateway was writing"
	}
	head.row("torn tail", torn)
	head.row("corruptions", fmt.Sprint(len(r.Corruptions)))
	head.row("clock steps", fmt.Sprint(r.StepsInAll))
	head.write(p)
	p.say("\n")
	t := table{}
	t.row("SEGMENT", "FIRST", "LAST", "USED", "SIZE", "BATCHES READ", "CREATED")
	for _, s := range r.Segments {
		t.row(s.Name, fleet.Count(s.First), fleet.Count(s.Last), human.Size(s.Used), human.Size(s.Bytes), fleet.Count(uint64(max(s.Batches, 0))), timeText(s.Created))
	}
	t.write(p)
	for _, s := range r.Steps {
		p.say("clock step: record %d: from %s to %s\n", s.Seq, millisText(s.From), millisText(s.To))
	}
	for _, bad := range r.Corruptions {
		p.say("corruption: %s\n", bad)
	}
}

// millisText formats a time of the journal.
func millisText(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// dumpFlags are the flags of `journal dump`.
type dumpFlags struct {
	from, limit uint64
	topic       string
}

func journalDumpCommand(c *cli) *cobra.Command {
	f := dumpFlags{}
	cmd := &cobra.Command{
		Use:   "dump DIR",
		Short: "print a journal's records, one per line",
		Long: `dump prints records in order, as text or with --json as one JSON object per line. Records that cannot be read leave
a gap in the sequence; verify shows the reason.`,
		Example: `  cellgate journal dump data/journal --topic 'v1/LTEST000000000001/#'
  cellgate journal dump data/journal --from 1000 --limit 10 --json`,
		Args: takes("DIR"),
		RunE: func(_ *cobra.Command, args []string) error { return c.dumpJournal(args[0], &f) },
	}
	cmd.Flags().Uint64Var(&f.from, "from", 1, "first sequence")
	cmd.Flags().Uint64Var(&f.limit, "limit", 0, "maximum number of records; 0 for all")
	cmd.Flags().StringVar(&f.topic, "topic", "", "only topics that this filter matches")
	c.jsonFlag(cmd)
	return cmd
}

// errEnough ends a dump at its limit.
var errEnough = errors.New("enough")

func (c *cli) dumpJournal(dir string, f *dumpFlags) error {
	if f.topic != "" {
		if err := message.ValidFilter(f.topic); err != nil {
			return usagef("topic: %w", err)
		}
	}
	out := bufio.NewWriterSize(c.out, 64<<10)
	n := uint64(0)
	err := journal.Dump(dir, f.from, func(rec *message.Record) error {
		if f.topic != "" && !message.Match(f.topic, rec.Topic) {
			return nil
		}
		if err := c.dumpRecord(out, rec); err != nil {
			return err
		}
		if n++; n == f.limit {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return journalError(dir, err)
	}
	return out.Flush()
}

// dumped is a record as printed by `dump --json`.
type dumped struct {
	Seq        uint64                 `json:"seq"`
	ReceivedAt time.Time              `json:"received_at"`
	Kind       string                 `json:"kind"`
	Client     string                 `json:"client,omitempty"`
	Role       string                 `json:"role,omitempty"` // with Issuer: of a client that is not a vehicle
	Issuer     string                 `json:"issuer,omitempty"`
	Topic      string                 `json:"topic,omitempty"`
	QoS        byte                   `json:"qos"`
	Retain     bool                   `json:"retain,omitempty"`
	Dup        bool                   `json:"dup,omitempty"`
	PacketID   uint16                 `json:"packet_id,omitempty"`
	Type       string                 `json:"content_type,omitempty"`
	User       []message.UserProperty `json:"user_properties,omitempty"`
	Payload    any                    `json:"payload,omitempty"` // JSON unchanged, else text
	Base64     string                 `json:"payload_base64,omitempty"`
}

func (c *cli) dumpRecord(w io.Writer, rec *message.Record) error {
	client, role, issuer := message.SplitSessionKey(rec.Client)
	if !c.json {
		_, err := fmt.Fprintf(w, "%d %s %s %s qos%d %s %s\n", rec.Seq, millisText(rec.ReceivedAt), kindName(rec.Kind), client, rec.QoS, rec.Topic, printable(rec.Payload))
		return err
	}
	d := dumped{
		Seq: rec.Seq, ReceivedAt: rec.Time(), Kind: kindName(rec.Kind), Client: client, Role: role, Issuer: issuer, Topic: rec.Topic, QoS: rec.QoS,
		Retain: rec.Retain, Dup: rec.Dup, PacketID: rec.PacketID, Type: rec.Props.ContentType, User: rec.Props.User,
	}
	switch {
	case len(rec.Payload) == 0:
	case json.Valid(rec.Payload):
		d.Payload = json.RawMessage(rec.Payload)
	case utf8.Valid(rec.Payload):
		d.Payload = string(rec.Payload)
	default:
		d.Base64 = base64.StdEncoding.EncodeToString(rec.Payload)
	}
	line, err := json.Marshal(d)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

func kindName(k message.Kind) string {
	switch k {
	case message.KindPublish:
		return "publish"
	case message.KindRelease:
		return "release"
	case message.KindSessionReset:
		return "session-reset"
	case message.KindRuleSet:
		return "rule-set"
	case message.KindClockStep:
		return "clock-step"
	case message.KindTick:
		return "tick"
	case message.KindLimit:
		return "limit"
	case message.KindOperatorState:
		return "operator-state"
	}
	return fmt.Sprintf("kind-%d", k)
}

// printable returns a payload as one line of text. It quotes what is not UTF-8.
func printable(p []byte) string {
	if !utf8.Valid(p) {
		return fmt.Sprintf("%q", p)
	}
	for _, b := range p {
		if b < ' ' {
			return fmt.Sprintf("%q", p)
		}
	}
	return string(p)
}
