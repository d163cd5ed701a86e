// Package sink delivers messages from the journal to the rules' targets, and keeps the ledger that proves that none is
// missing.
//
// A Dispatcher has one evaluator, which reads the journal in order, evaluates the rules, and owns the evaluation
// position E; and one pipeline per sink, each with its own cursor. While a sink keeps up, its messages are rendered and
// delivered as they are decided. A sink that lags is fed from its decision log by a loader, which reads record and
// decision again; the evaluator never waits for a sink. Everything that must survive a crash (E, the operators' state,
// cursors, counts, ends of the decision logs) is written in one transaction about once a second, so that it is
// consistent after kill -9. Messages in flight are then repeated with the same message id.
//
// The guarantee, per sink, at every moment and across restarts:
//
//	received = delivered + filtered + dead-lettered + dropped + pending
//
// Each term is counted where it happens: received counts the records in the journal; the part that is not evaluated yet is
// pending.
//
//	producer, err := kafkaclient.NewProducer(…)
//	d, err := sink.New(sink.Options{Journal: j, DB: db, Dir: dir, Cell: cell, Node: node, Sinks: []sink.Binding{
//		{Sink: kafka.New(kafka.Options{Producer: producer, Cell: cell})}, …}})
//	err = d.Start()
//	err = d.ApplyRules(ctx, source) // before the listeners open
//	defer d.Stop(ctx)
//
// DECISIONS.md gives the reasons. The sub-packages are the sinks; sinktest runs them in tests.
package sink
