// Package scenario holds the end-to-end scenarios: what a newcomer, a vehicle, an analyst and a
// vehicle-control service see from the outside. test/e2e runs them on embedded Kafka and Redis, test/real
// on Apache Kafka and Redis; the scenarios do not know which.
package scenario
