// Package console is the operators' web console: pages of HTML and SVG made by the gateway, a few ES modules, and nothing
// from elsewhere.
//
// It is a client of the gateway's own HTTP API, which it calls inside the process in the name of whoever has logged in: what
// a page shows and what a button does is what that token may see and do over the API, and stands in the audit log as such.
package console
