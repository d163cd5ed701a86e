package main

import (
	"bytes"
	"strings"
	"testing"
)

// What is wrong with a command line is said in the user's words; those of the flag library must not show, nor
// change unseen with its version.
func TestUsageComplaints(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"vehicel":                                "vehicel: no such command; did you mean vehicles? see `cellgate --help`",
		"token shred":                            "token shred: no such command; see `cellgate token --help`",
		"--loud":                                 "usage: unknown flag: --loud; see `cellgate --help`",
		"drain --ratee 5":                        "drain: unknown flag: --ratee; did you mean --rate? see `cellgate drain --help`",
		"command list --vinn A":                  "command list: unknown flag: --vinn; did you mean --vin? see `cellgate command list --help`",
		"status now":                             "status: unexpected argument \"now\"; see `cellgate status --help`",
		"rules diff a":                           "rules diff: NEW is missing; see `cellgate rules diff --help`",
		"vehicles A B":                           "vehicles: unexpected argument \"B\": it takes one VIN at most; see `cellgate vehicles --help`",
		"run":                                    "run: missing --config; see `cellgate run --help`",
		"command send":                           "command send: missing --name, --vin; see `cellgate command send --help`",
		"command send --vin A --name b --wait 5": "command send: unexpected argument \"5\"; a value of --wait is given as --wait=5; see `cellgate command send --help`",
		"token issue":                            "token issue: give one of --operator, --service, --vin, --vins; see `cellgate token issue --help`",
		"token issue --vin A --service b":        "token issue: --service and --vin exclude each other; see `cellgate token issue --help`",
		"token issue --vin A --ttl 5":            "token issue: --ttl: \"5\" is not a duration such as 10s, 5m or 24h; see `cellgate token issue --help`",
		"fleet --vehicles ten":                   "fleet: --vehicles: \"ten\" is not a whole number; see `cellgate fleet --help`",
		"fleet --rate fast":                      "fleet: --rate: \"fast\" is not a number; see `cellgate fleet --help`",
		"journal dump d --from x":                "journal dump: --from: \"x\" is not a whole number from 0; see `cellgate journal dump --help`",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			var out, errOut bytes.Buffer
			if got := run(strings.Fields(args), nil, strings.NewReader(""), &out, &errOut); got != exitUsage {
				t.Errorf("exit %d, want %d", got, exitUsage)
			}
			if got := errOut.String(); got != "cellgate: "+want+"\n" {
				t.Errorf("stderr %q\nwant   %q", got, "cellgate: "+want+"\n")
			}
		})
	}
}
