// Package console is the operators' web console: HTML and SVG pages rendered by the gateway, and a few ES modules. It
// loads nothing from other sites.
//
// It is a client of the gateway's HTTP API, called within the process with the logged-in user's token. Pages show, and
// buttons do, only what that token permits over the API. The audit log has these calls like any others.
package console
