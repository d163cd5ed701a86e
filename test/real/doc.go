// Package real runs the scenarios of test/scenario on Apache Kafka and Redis, together with clients of other projects,
// and the faults that only real brokers show. Its tests have the build tag `real`; `make test-real` installs what they
// need and runs them.
package real
