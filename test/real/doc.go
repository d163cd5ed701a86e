// Package real runs the scenarios of test/scenario on Apache Kafka and Redis, with foreign clients taking
// part, and the faults that only real brokers show. Its tests have the build tag `real`; `make test-real`
// installs what they need and runs them.
package real
