package message

// OperatorState returns a KindOperatorState record; the journal sets Seq and ReceivedAt. With data the rules' operators
// take over another gateway's export for the vehicle; without data they forget the vehicle, whose state another gateway
// has.
func OperatorState(vin string, data []byte) Record {
	return Record{Kind: KindOperatorState, Client: vin, Payload: data}
}
