// Package cells runs cells of several gateways under faults: gateways killed, stopped and bereft of their disks, Redis failing over
// and losing writes, links cut. Vehicles roam between the gateways, services send them commands; both write down what they saw. A
// judge compares it line by line with what the gateways and Kafka say at the end.
//
// The judge and its test need only Go. The cells run with the tag real: short by `make test-real`,
// at full length by `make cells` and `make soak`. The short form judges what is right or wrong, and prints times.
package cells
