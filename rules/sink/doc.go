// Package sink carries the gateway's messages from the journal to where the rules send them, and keeps
// the ledger that proves that none is missing.
//
// A Dispatcher has one evaluator, which reads the journal in order, asks the rules, and owns the
// evaluation position E; and one pipeline per sink, with a cursor of its own. While a sink keeps up,
// its messages are rendered and handed over as they are decided. A sink that does not is fed later,
// from its decision log, by a loader that reads record and decision again; the evaluator never waits
// for it. Everything that must survive a crash (E, the operators' state, cursors, counts, how far the
// decision logs go) is written in one transaction about once a second, so that after kill -9 all of it
// is of one moment, and what was under way then is done again under the same message id.
//
// The promise, per sink, at every moment and across restarts:
//
//	received = delivered + filtered + dead-lettered + dropped + pending
//
// with each term counted where it happens: received is what the journal has taken, and what the rules have not seen of it
// yet is pending.
//
//	producer, err := kafkaclient.NewProducer(…)
//	d, err := sink.New(sink.Options{Journal: j, DB: db, Dir: dir, Cell: cell, Node: node, Sinks: []sink.Binding{
//		{Sink: kafka.New(kafka.Options{Producer: producer, Cell: cell})}, …}})
//	err = d.Start()
//	err = d.ApplyRules(ctx, source) // before the listeners open
//	defer d.Stop(ctx)
//
// DECISIONS.md gives the reasons; kafka and redis below this
// package are the sinks, sinktest is the suite that every sink must pass.
package sink
