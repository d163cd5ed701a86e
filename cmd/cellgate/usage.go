package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cellgate/broker/shared/spelling"
)

// asUsage makes all errors about commands, flags and arguments usage errors, for the whole tree.
func asUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return wrong(cmd, flagComplaint(cmd, err)) })
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return noCommand(cmd, args[0])
		}
	} else {
		check := cmd.Args
		if check == nil {
			check = cobra.ArbitraryArgs
		}
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return wrong(cmd, err)
			}
			for _, err := range []error{cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()} {
				if err != nil {
					return wrong(cmd, groupComplaint(err))
				}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		asUsage(sub)
	}
}

// wrong adds the command and how to get its usage to an error.
func wrong(cmd *cobra.Command, err error) error {
	between := ";"
	if strings.HasSuffix(err.Error(), "?") {
		between = ""
	}
	return usagef("%s: %w%s see `%s --help`", nameOf(cmd), err, between, cmd.CommandPath())
}

// nameOf returns a command as typed after the program's name; for the program itself its own name.
func nameOf(cmd *cobra.Command) string {
	if name, ok := strings.CutPrefix(cmd.CommandPath(), cmd.Root().Name()+" "); ok {
		return name
	}
	return "usage"
}

func noCommand(cmd *cobra.Command, name string) error {
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %s? ", strings.Join(near, " or "))
	}
	whole := name
	if cmd.HasParent() {
		whole = nameOf(cmd) + " " + name
	}
	return usagef("%s: no such command; %ssee `%s --help`", whole, hint, cmd.CommandPath())
}

// takes requires exactly the named arguments.
func takes(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
			return nil
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", strings.Join(names[len(args):], " and "))
		}
		return tooMany(cmd, args[len(names)])
	}
}

// mayTake permits at most one argument.
func mayTake(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("%w: it takes one %s at most", tooMany(cmd, args[1]), name)
		}
		return nil
	}
}

// tooMany reports an unexpected argument. A frequent cause is a value after a flag whose value is optional.
func tooMany(cmd *cobra.Command, arg string) error {
	hint := ""
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.NoOptDefVal != "" && f.Value.Type() != "bool" {
			hint = fmt.Sprintf("; a value of --%s is given as --%s=%s", f.Name, f.Name, arg)
		}
	})
	return fmt.Errorf("unexpected argument %q%s", arg, hint)
}

// flagComplaint rewrites an error about a flag's value without the names of Go's parsers, and suggests the meant flag for one that
// does not exist.
func flagComplaint(cmd *cobra.Command, err error) error {
	var missing *pflag.NotExistError
	if errors.As(err, &missing) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := spelling.Nearest(missing.GetSpecifiedName(), names); near != "" && len(missing.GetSpecifiedName()) > 1 {
			return fmt.Errorf("%w; did you mean --%s?", err, near)
		}
		return err
	}
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	want := map[string]string{
		"duration": "a duration such as 10s, 5m or 24h",
		"int":      "a whole number", "uint8": "a whole number from 0 to 255", "uint64": "a whole number from 0",
		"float64": "a number", "bool": "true or false",
	}[invalid.GetFlag().Value.Type()]
	if want == "" {
		return err
	}
	return fmt.Errorf("--%s: %q is not %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}

// Errors of cobra about required flags and flag groups, pinned by TestUsageComplaints.
const (
	missingForm = `^required flag\(s\) (.+) not set$`
	eitherForm  = `^if any flags in the group .* none of the others can be; \[(.+)\] were all set$`
	oneOfForm   = `^at least one of the flags in the group \[(.+)\] is required$`
)

// groupComplaint rewrites errors about missing or mutually exclusive flags.
func groupComplaint(err error) error {
	for _, form := range []struct{ pattern, before, between, after string }{
		{missingForm, "missing ", ", ", ""},
		{eitherForm, "", " and ", " exclude each other"},
		{oneOfForm, "give one of ", ", ", ""},
	} {
		found := regexp.MustCompile(form.pattern).FindStringSubmatch(err.Error())
		if found == nil {
			continue
		}
		names := strings.FieldsFunc(found[1], func(r rune) bool { return strings.ContainsRune(` ,"`, r) })
		for i, name := range names {
			names[i] = "--" + name
		}
		slices.Sort(names)
		return errors.New(form.before + strings.Join(names, form.between) + form.after)
	}
	return err
}
