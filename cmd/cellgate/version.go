package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo is the output of `cellgate version`.
type buildInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
	Built   string `json:"built"`
	System  string `json:"system"`
}

func thisBuild() buildInfo {
	b := buildInfo{version, commit, runtime.Version(), built, runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	for _, s := range settings(info, ok) {
		switch {
		case s.Key == "vcs.revision" && b.Commit == "unknown":
			b.Commit = s.Value
		case s.Key == "vcs.time" && b.Built == "unknown":
			b.Built = s.Value
		}
	}
	return b
}

func settings(info *debug.BuildInfo, ok bool) []debug.BuildSetting {
	if !ok {
		return nil
	}
	return info.Settings
}

func versionCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print version, commit, Go and build time",
		Example: "  cellgate version --json",
		Args:    takes(),
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			return c.print(b, func(p *printer) {
				p.say("cellgate %s (commit %s, %s, %s, built %s)\n", b.Version, b.Commit, b.Go, b.System, b.Built)
			})
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
