// Package stream serves the API's server-sent events (WHATWG HTML, 9.2). Publishing under a key never blocks. Each
// stream has its own queue; a reader that does not keep up is notified and dropped.
package stream
