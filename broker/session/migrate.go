package session

import (
	"bytes"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
)

// roleOfServices is the role assigned to sessions of formatByClient that are not vehicles'.
const roleOfServices = "service"

// nameByIssuer renames sessions stored by formatByClient from client identifiers to session keys. Vehicles' sessions
// keep their keys.
func nameByIssuer(root *statefile.Bucket, issuer string) error {
	services := map[string]string{} // key by client identifier
	err := root.Bucket(bucketSessions.name()).ForEach(func(k, v []byte) error {
		if len(v) > 0 && v[0]&flagVehicle == 0 {
			services[string(k)] = message.SessionKey(string(k), roleOfServices, issuer)
		}
		return nil
	})
	if err != nil || len(services) == 0 {
		return err
	}
	for _, b := range []bucket{bucketSessions, bucketQueue, bucketInflight, bucketIncoming} {
		if err := rename(root.Bucket(b.name()), b, services); err != nil {
			return err
		}
	}
	return nil
}

// rename moves the values of the clients in names to their new keys.
func rename(b *statefile.Bucket, of bucket, names map[string]string) error {
	type entry struct{ from, to, value []byte }
	var moved []entry
	err := b.ForEach(func(k, v []byte) error {
		client, rest := string(k), []byte(nil)
		if of == bucketQueue || of == bucketInflight {
			if len(k) < 9 {
				return nil // the loader reports it
			}
			client, rest = string(k[:len(k)-9]), k[len(k)-9:]
		}
		if name, ok := names[client]; ok {
			moved = append(moved, entry{bytes.Clone(k), append([]byte(name), rest...), bytes.Clone(v)})
		}
		return nil
	})
	for _, e := range moved {
		if err != nil {
			return err
		}
		if err = b.Put(e.to, e.value); err == nil {
			err = b.Delete(e.from)
		}
	}
	return err
}
