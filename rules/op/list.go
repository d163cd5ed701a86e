package op

// Operators are all operators, in the order in which a rule applies them, whatever the order in the file.
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
