// Package bench compares the whole gateway with Mosquitto on this machine: same load generator, same
// payloads, alternating rounds, each server a process of its own whose processor time is read from
// /proc. `make bench` runs it. Only the ratios are results; the machine is too noisy for the rest.
package bench
