package message

// OperatorState is a KindOperatorState record, which gets its Seq and ReceivedAt from the journal: from here on the rules' operators
// remember data of a vehicle, as another gateway has exported it. Without data they have forgotten the vehicle: another gateway has
// what they remembered.
func OperatorState(vin string, data []byte) Record {
	return Record{Kind: KindOperatorState, Client: vin, Payload: data}
}
