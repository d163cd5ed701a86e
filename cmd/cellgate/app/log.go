package app

import (
	"io"
	"log/slog"

	"cellgate/configs"
)

// newLog returns the gateway's logger: JSON or text to w, with `cell` on every line. The level can be changed later.
func newLog(w io.Writer, c *configs.Config) (*slog.Logger, *slog.LevelVar) {
	level := &slog.LevelVar{}
	level.Set(levelOf(c.Log.Level))
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewJSONHandler(w, o)
	if c.Log.Format == "text" {
		h = slog.NewTextHandler(w, o)
	}
	return slog.New(h).With(slog.String("cell", c.Cell.ID)), level
}

// logWarnings logs settings that are permitted but may be mistakes.
func logWarnings(log *slog.Logger, c *configs.Config) {
	for _, w := range c.Warnings {
		log.Warn("configuration", slog.String("key", w.Path), slog.String("warning", w.Why), slog.String("advice", w.Fix), slog.Int("line", w.Line))
	}
}

func levelOf(name string) slog.Level {
	switch name {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}
