// Package rules turns YAML rule files into decisions about messages: which message goes to which Kafka
// topic, Redis key or central lane, in which form.
//
// A rule set is a deterministic function of the journal. Engine evaluates each record once, in journal
// order per VIN, and reads no clock: time is the record's ReceivedAt, and a step of the gateway's clock is a record too
// (State.StepClock). What it gives is a Decision: rule,
// target and the operators' values. Render makes the outgoing message from record and decision alone,
// at once or days later, under the set that made the decision. Live routing, recovery after a crash,
// Test, Explain and Diff all run this one engine.
//
// The way through the package:
//
//	folder, err := rules.ReadFolder(ctx, "configs/rules")  // the files, when they rest; Source.Hash() names the rules
//	set, err := folder.Compile(rules.Options{Cell: "cell-sh-01"})  // all or nothing
//	state := rules.NewState(rules.StateOptions{})         // per-VIN operator state, sharded by VIN
//	engine := rules.NewEngine(set, state)                 // keeps the state of unchanged operators
//	w := engine.NewWorker()                               // one per goroutine
//	decisions := w.Eval(&rec, decisions[:0])
//	for _, d := range decisions { err := w.Render(d, &rec, &out) }  // or set.Render, later
//	state.TakeChanged(func(vin string, data []byte) { … })  // for the checkpoint, while no worker runs
//
// Workers of one engine may run at the same time as long as no two of them are given records of the
// same shard (ShardOf); records of one VIN are given in journal order.
//
// The dispatcher in rules/sink uses Engine; the command line uses Check, Test, Explain, Diff, Format
// and JSONSchema; analysts read README.md.
package rules
