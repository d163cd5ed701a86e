// Command cellgate is the MQTT gateway of one cell of a connected-vehicle platform, with its tools. `cellgate --help`
// lists the commands.
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
	exitNo    = 1 // the command ran and the answer is no: invalid, failed, refused
	exitUsage = 2
)

func main() {
	hangups := make(chan os.Signal, 1)
	if len(os.Args) > 1 && slices.Contains(serving(), os.Args[1]) {
		signal.Notify(hangups, syscall.SIGHUP) // first, so that one that comes during the start reloads after it
	}
	redis.SetLogger(quiet{})
	os.Exit(run(os.Args[1:], hangups, os.Stdin, os.Stdout, os.Stderr))
}

// serving returns the commands that reload on SIGHUP. Others end, as when their terminal is closed.
func serving() []string { return []string{"run", "dev"} }

// run is main with its environment as arguments.
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
		fmt.Fprintln(errOut, complaint(err)) //nolint:errcheck // there is nowhere else to report it
	}
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitNo
}

// quiet replaces go-redis's logger, which is global and writes to stderr in its own format. go-redis also returns every
// error that it logs, and the callers log them.
type quiet struct{}

// Printf implements go-redis's logger.
func (quiet) Printf(context.Context, string, ...any) {}

// complaint returns what is printed to stderr: a line for each problem of a configuration, else the error, with advice
// for a file that may not be read.
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

// usageError means that the command line is wrong.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// silentError means that the answer no has already been printed.
type silentError struct{}

func (silentError) Error() string { return "no" }
