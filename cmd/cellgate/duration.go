package main

import (
	"time"

	"github.com/spf13/pflag"

	"cellgate/broker/shared/message/duration"
)

// durationFlag is a flag's duration, written as in the configuration: 90s, 1h30m, 7d.
type durationFlag time.Duration

// Set implements pflag.Value.
func (d *durationFlag) Set(text string) error {
	v, err := duration.Parse(text)
	*d = durationFlag(v)
	return err
}

// String implements pflag.Value.
func (d *durationFlag) String() string { return duration.Text(time.Duration(*d)) }

// Type implements pflag.Value.
func (d *durationFlag) Type() string { return "duration" }

// durationVar declares a flag that takes a duration.
func durationVar(flags *pflag.FlagSet, into *time.Duration, name string, value time.Duration, usage string) {
	*into = value
	flags.Var((*durationFlag)(into), name, usage)
}
