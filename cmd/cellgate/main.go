// Command cellgate is the MQTT gateway of one cell of a connected-vehicle platform, and the tools around
// it. `cellgate --help` lists the commands.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"

	"cellgate/configs"
)

// Set by the linker: see LDFLAGS in the Makefile.
var (
	version = "dev"
	commit  = "unknown"
	built   = "unknown"
)

// Exit codes.
const (
	exitDone  = 0
	exitNo    = 1 // it ran, and the answer is no: invalid, failed, refused
	exitUsage = 2
)

func main() {
	hangups := make(chan os.Signal, 1)
	if len(os.Args) > 1 && slices.Contains(serving(), os.Args[1]) {
		signal.Notify(hangups, syscall.SIGHUP) // before anything else: one that comes during the start reloads behind it
	}
	redis.SetLogger(quiet{})
	os.Exit(run(os.Args[1:], hangups, os.Stdin, os.Stdout, os.Stderr))
}

// serving are the commands that reload at SIGHUP. It ends the others, as when their terminal is closed.
func serving() []string { return []string{"run", "dev"} }

// run is main with its surroundings as arguments.
func run(args []string, hangups <-chan os.Signal, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	root := newRoot(&cli{in: in, out: out, err: errOut, hangups: hangups})
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var silent silentError
	if !errors.As(err, &silent) {
		fmt.Fprintln(errOut, complaint(err)) //nolint:errcheck // nowhere else to tell
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitNo
}

// quiet takes the place of go-redis's own logger, which is one for the whole process and writes to stderr in a
// form of its own. Every error that it tells of is returned to a caller too, and logged there.
type quiet struct{}

// Printf implements go-redis's logger.
func (quiet) Printf(context.Context, string, ...any) {}

// complaint is what stderr gets: one line for each problem of a configuration, else the error as it is, and for a
// file that may not be read what to do.
func complaint(err error) string {
	text := "cellgate: " + strings.TrimSpace(err.Error())
	var problems configs.Problems
	if errors.As(err, &problems) {
		return strings.ReplaceAll(text, "\n", "\ncellgate: ")
	}
	if errors.Is(err, fs.ErrPermission) && !strings.Contains(text, "; ") {
		text += "; run it as a user who may, or name another"
	}
	return text
}

// usageError says that the command line itself is wrong.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// silentError is an answer of no that has been printed already.
type silentError struct{}

func (silentError) Error() string { return "no" }
