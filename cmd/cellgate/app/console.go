package app

import (
	"net/http"
	"time"

	"cellgate/cmd/cellgate/console"
)

// mountConsole adds the console's pages to the API.
func (a *gateway) mountConsole(mux *http.ServeMux) error {
	if !a.cfg.HTTP.Console {
		return nil
	}
	c, err := console.New(console.Options{
		API: a.bounded(mux), Verify: a.auth.Verify, Gather: a.reg.all, Secure: a.cfg.HTTP.TLS != nil,
		Cell: a.cfg.Cell.ID, Node: a.cfg.Cell.Node, Metrics: a.reg.own, Log: a.log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	c.Register(mux)
	a.console = c
	return nil
}
