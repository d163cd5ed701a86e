package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"cellgate/broker/shared/trace"
)

func traceCommand(c *cli) *cobra.Command {
	t := &target{}
	var vin, topic, rule string
	cmd := &cobra.Command{
		Use:   "trace",
		Short: "follow what happens to messages, step by step",
		Long: `trace shows what happens to messages while it runs: receipt, sequence in the journal, each rule with its reason, the
outcome of what the rules send, and the acknowledgement. Select messages by vehicle, topic or rule; several flags must all
match. Times are the gateway's. Steps of different parts may be slightly out of order. Above 2,000 steps a second of a
vehicle the rest is omitted, and counted. With --json each line is one step, as in GET /v1/trace. Ctrl-C ends the trace.`,
		Example: `  cellgate trace --vin LTEST000000000001
  cellgate trace --topic 'v1/+/up/alarm'
  cellgate trace --rule low-battery --json`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			query := url.Values{}
			for name, value := range map[string]string{"vin": vin, "topic": topic, "rule": rule} {
				if value != "" {
					query.Set(name, value)
				}
			}
			client, err := t.client()
			if err != nil {
				return err
			}
			return client.stream(cmd.Context(), "/v1/trace?"+query.Encode(), func(data []byte) error { return c.step(data) })
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().StringVar(&vin, "vin", "", "messages of this vehicle")
	cmd.Flags().StringVar(&topic, "topic", "", "messages on topics that match this filter")
	cmd.Flags().StringVar(&rule, "rule", "", "messages that this rule considers, without the steps of other rules")
	cmd.MarkFlagsOneRequired("vin", "topic", "rule")
	return cmd
}

// step prints one step. The last event is none: it says why the gateway has ended the trace.
func (c *cli) step(data []byte) error {
	var end struct{ Detail string }
	if json.Unmarshal(data, &end) == nil && end.Detail != "" {
		return fmt.Errorf("the gateway has ended the trace: %s", end.Detail)
	}
	line := string(data)
	if !c.json {
		var s trace.Step
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		line = stepText(&s)
	}
	if _, err := io.WriteString(c.out, line+"\n"); err != nil {
		return fmt.Errorf("output: %w", err)
	}
	return nil
}

// stepText formats a step as a line: time, message, event.
func stepText(s *trace.Step) string {
	seq := "-"
	if s.Seq > 0 {
		seq = fmt.Sprintf("#%d", s.Seq)
	}
	if s.Step == trace.Dropped {
		return fmt.Sprintf("%s  %-8s  %d steps omitted: above the rate of a trace", s.At.Format("15:04:05.000"), seq, s.Count)
	}
	return fmt.Sprintf("%s  %-8s  %-12s  %s", s.At.Format("15:04:05.000"), seq, s.Step, stepDetail(s))
}

func stepDetail(s *trace.Step) string {
	switch s.Step {
	case trace.Received, trace.Refused:
		text := s.Topic
		if s.QoS != nil && s.Bytes != nil {
			text += fmt.Sprintf("  QoS %d, %d B", *s.QoS, *s.Bytes)
		}
		if s.Repeats > 0 {
			text += fmt.Sprintf(", repeats #%d", s.Repeats)
		}
		if s.Reason != "" {
			text += ": " + s.Reason
		}
		return text
	case trace.Rule:
		text := s.Rule + " " + s.Outcome
		if s.Stage != "" {
			text += " at " + s.Stage
		}
		return withReason(text, s.Reason)
	case trace.Target:
		to := s.Rule
		if s.Target != nil {
			to += fmt.Sprintf("[%d]", *s.Target)
		}
		return withReason(fmt.Sprintf("%s to %s: %s", to, s.Sink, s.Outcome), s.Reason)
	case trace.Acknowledged:
		if s.Code != nil && *s.Code != 0 {
			return fmt.Sprintf("reason code 0x%02X", *s.Code)
		}
	}
	return ""
}

func withReason(text, reason string) string {
	if reason == "" {
		return text
	}
	return text + ": " + strings.ReplaceAll(reason, "\n", " ")
}
