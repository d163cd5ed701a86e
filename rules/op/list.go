package op

// Operators returns all operators in the order in which a rule applies them. The order in the file does not matter.
func Operators() []*Operator {
	return []*Operator{
		&geofence,
		&onChange,
		&dedupe,
		&silent,
		&average,
		&minimum,
		&maximum,
		&sum,
		&last,
		&aggregate,
		&threshold,
		&count,
		&sample,
		&rateLimit,
	}
}
