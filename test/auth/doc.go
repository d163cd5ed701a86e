// Package authtest tests tokens, permissions and revocation from the outside: against the gateway as a separate
// process, over its sockets and with its command line. The functions of auth are tested in auth.
package authtest
