// Package engine turns messages into decisions by a rule set, and decisions into outgoing messages.
//
// Evaluation is a deterministic function of the journal. Engine evaluates each record once, in journal order per VIN,
// and reads no clock: time is the record's ReceivedAt, and a step of the gateway's clock is a record too
// (State.StepClock). The result is a Decision: rule, target and the operators' values. Renderer makes the outgoing
// message from record and decision alone, at once or days later, with the set that made the decision. Live routing,
// crash recovery and the tools of package workbench all use this engine.
//
//	st := state.NewState(state.StateOptions{})            // per-VIN operator state, sharded by VIN
//	e := engine.NewEngine(set, st)                        // keeps the state of unchanged operators
//	w := e.NewWorker()                                    // one per goroutine
//	decisions := w.Eval(&rec, decisions[:0])
//	for _, d := range decisions { err := w.Render(d, &rec, &out) }  // or Renderer.Render, later
//	st.TakeChanged(func(vin string, data []byte) { … })   // for the checkpoint, while no worker runs
//
// Workers of one engine may run concurrently as long as no two of them evaluate records of the same shard (ShardOf).
// The records of one VIN must be evaluated in journal order.
package engine
