// Package authtest shows tokens, permissions and revocation from the outside: against the gateway as a process of
// its own, over its sockets, with its command line. What auth promises for its functions is tested there.
package authtest
