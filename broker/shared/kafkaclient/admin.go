package kafkaclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"

	"cellgate/broker/shared/remote"
)

// Admin queries and creates topics, for tools. It keeps no connection.
type Admin struct{ config Config }

// NewAdmin checks the settings. It does not connect.
func NewAdmin(c Config) (*Admin, error) {
	if err := c.check(c); err != nil {
		return nil, err
	}
	return &Admin{c}, nil
}

// TopicState describes a topic.
type TopicState struct {
	Name       string
	Missing    bool
	Err        error // why nothing more is known
	Partitions int
	// Replicas and InSync are minimums over the partitions.
	Replicas, InSync int
	// MayWrite and MayRead are also true if the cluster does not report permissions.
	MayWrite, MayRead bool
}

// Causes of an unusable connection, for errors.Is.
var (
	errConnect = errors.New("no connection")
	ErrTLS     = remote.ErrTLS
	ErrLogin   = remote.ErrLogin
)

// Reach connects to one of the brokers and logs in. The error wraps errConnect, ErrTLS or ErrLogin and names the cause in one line.
func (a *Admin) Reach(ctx context.Context, broker string) error {
	c, err := a.dial(ctx, broker)
	if err != nil {
		return err
	}
	return c.Close()
}

// cause explains why a reachable cluster does not answer. kafka-go reports a refused login only as a closed connection,
// so cause logs in again in a way that returns the broker's message.
func (c Config) cause(ctx context.Context, err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	for _, broker := range c.Brokers {
		if said := (&Admin{c}).Reach(ctx, broker); errors.Is(said, ErrTLS) || errors.Is(said, ErrLogin) {
			return fmt.Errorf("%s: %w", broker, said)
		}
	}
	return fmt.Errorf("the brokers close the connection: their listener may require TLS, or a login: %w", err)
}

// Versions of the requests, supported by brokers from 2.3 to 4.x.
const (
	adminMetadata       = 8
	adminCreateTopics   = 4 // the first in which -1 means the brokers' default
	saslVersion         = 1
	operationsUnknown   = -2147483648
	bitRead, bitWrite   = 1 << 3, 1 << 4 // of AclOperation
	authenticationError = 58
)

func (a *Admin) dial(ctx context.Context, broker string) (*protocol.Conn, error) {
	d := &net.Dialer{Timeout: a.config.DialTimeout}
	conn, err := d.DialContext(ctx, "tcp", broker)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConnect, err)
	}
	limit := time.Now().Add(a.config.DialTimeout + a.config.RequestTimeout)
	if at, ok := ctx.Deadline(); ok && at.Before(limit) {
		limit = at
	}
	_ = conn.SetDeadline(limit) //nolint:errcheck // a connection that has just been made takes one
	if a.config.TLS != nil {
		settings := a.config.TLS.Clone()
		if settings.ServerName == "" {
			settings.ServerName, _, _ = net.SplitHostPort(broker) //nolint:errcheck // dialled before
		}
		secure := tls.Client(conn, settings)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrTLS, err), quietly(conn.Close()))
		}
		conn = secure
	}
	c := protocol.NewConn(conn, a.config.ClientID)
	c.SetVersions(map[protocol.ApiKey]int16{
		protocol.Metadata: adminMetadata, protocol.CreateTopics: adminCreateTopics, protocol.SaslHandshake: saslVersion, protocol.SaslAuthenticate: saslVersion,
	})
	if err := a.login(ctx, c); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrLogin, err), quietly(c.Close()))
	}
	return c, nil
}

// quietly discards the error of closing a failed connection.
func quietly(error) error { return nil }

func (a *Admin) login(ctx context.Context, c *protocol.Conn) error {
	m, err := a.config.mechanism()
	if err != nil || m == nil {
		return err
	}
	msg, err := c.RoundTrip(&saslhandshake.Request{Mechanism: m.Name()})
	if err != nil {
		return closedBy(err, "its listener may require TLS, or no login")
	}
	if r, ok := msg.(*saslhandshake.Response); ok && r.ErrorCode != 0 {
		return fmt.Errorf("the cluster does not accept %s, only %v", m.Name(), r.Mechanisms)
	}
	session, state, err := m.Start(ctx)
	for done := false; err == nil && !done; {
		var msg protocol.Message
		if msg, err = c.RoundTrip(&saslauthenticate.Request{AuthBytes: state}); err != nil {
			return closedBy(err, "user or password are not accepted, or it requires another mechanism")
		}
		r, ok := msg.(*saslauthenticate.Response)
		if !ok || r.ErrorCode != 0 {
			return refusedLogin(r)
		}
		done, state, err = session.Next(ctx, r.AuthBytes)
	}
	return err
}

func refusedLogin(r *saslauthenticate.Response) error {
	switch {
	case r == nil:
		return errors.New("the answer is not from a Kafka broker")
	case r.ErrorMessage != "":
		return errors.New(r.ErrorMessage)
	case r.ErrorCode == authenticationError:
		return errors.New("user or password are not accepted")
	}
	return kafka.Error(r.ErrorCode)
}

// closedBy explains a connection that ends during the login.
func closedBy(err error, why string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the broker has closed the connection: " + why)
	}
	return err
}

// Topics returns the state of topics, in the order of names. An error means that no broker answered.
func (a *Admin) Topics(ctx context.Context, names []string) ([]TopicState, error) {
	var errs []error
	for _, broker := range a.config.Brokers {
		r, err := a.metadata(ctx, broker, names)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", broker, err))
			continue
		}
		return states(names, r), nil
	}
	return nil, errors.Join(errs...)
}

// metadata asks one broker. No names: about the cluster alone.
func (a *Admin) metadata(ctx context.Context, broker string, names []string) (*metadata.Response, error) {
	c, err := a.dial(ctx, broker)
	if err != nil {
		return nil, err
	}
	if names == nil {
		names = []string{} // null means all topics
	}
	msg, err := c.RoundTrip(&metadata.Request{TopicNames: names, IncludeTopicAuthorizedOperations: true})
	_ = c.Close() //nolint:errcheck // the response, or a more specific error, is already there
	if err != nil {
		return nil, closedBy(err, "its listener may require TLS, or a login")
	}
	r, ok := msg.(*metadata.Response)
	if !ok {
		return nil, errors.New("no answer from a Kafka broker")
	}
	return r, nil
}

func states(names []string, r *metadata.Response) []TopicState {
	by := make(map[string]*metadata.ResponseTopic, len(r.Topics))
	for i := range r.Topics {
		by[r.Topics[i].Name] = &r.Topics[i]
	}
	out := make([]TopicState, len(names))
	for i, name := range names {
		out[i] = stateOf(name, by[name])
	}
	return out
}

func stateOf(name string, t *metadata.ResponseTopic) TopicState {
	s := TopicState{Name: name}
	switch {
	case t == nil, kafka.Error(t.ErrorCode) == kafka.UnknownTopicOrPartition:
		s.Missing = true
		return s
	case t.ErrorCode != 0:
		s.Err = kafka.Error(t.ErrorCode)
		return s
	}
	s.Partitions = len(t.Partitions)
	for i := range t.Partitions {
		p := &t.Partitions[i]
		if i == 0 {
			s.Replicas, s.InSync = len(p.ReplicaNodes), len(p.IsrNodes)
		}
		s.Replicas, s.InSync = min(s.Replicas, len(p.ReplicaNodes)), min(s.InSync, len(p.IsrNodes))
	}
	ops := t.TopicAuthorizedOperations
	s.MayRead = ops == operationsUnknown || ops == 0 || ops&bitRead != 0
	s.MayWrite = ops == operationsUnknown || ops == 0 || ops&bitWrite != 0
	return s
}

// Create creates a topic; -1 leaves partitions or replication to the brokers. With dry the cluster only validates the
// request.
func (a *Admin) Create(ctx context.Context, name string, partitions, replication int, dry bool) error {
	create := a.create
	if dry {
		create = a.validate
	}
	if err := create(ctx, name, partitions, replication); err != nil && !errors.Is(err, kafka.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	return nil
}

func (a *Admin) create(ctx context.Context, name string, partitions, replication int) error {
	c := a.config.client(nil)
	defer closeIdle(c)
	r, err := c.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{
		{Topic: name, NumPartitions: partitions, ReplicationFactor: replication},
	}})
	if err != nil {
		return err
	}
	return r.Errors[name]
}

// validate does not use kafka.Client, which then waits for a topic that nothing creates.
func (a *Admin) validate(ctx context.Context, name string, partitions, replication int) error {
	c, err := a.controller(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	msg, err := c.RoundTrip(&createtopics.Request{
		TimeoutMs: int32(a.config.RequestTimeout.Milliseconds()), ValidateOnly: true, //nolint:gosec // minutes at most
		Topics: []createtopics.RequestTopic{{Name: name, NumPartitions: int32(partitions), ReplicationFactor: int16(replication)}}, //nolint:gosec // checked by configs
	})
	r, ok := msg.(*createtopics.Response)
	switch {
	case err != nil:
		return err
	case !ok || len(r.Topics) != 1:
		return errors.New("the answer is not from a Kafka broker")
	case r.Topics[0].ErrorCode == 0:
		return nil
	case r.Topics[0].ErrorMessage != "":
		return fmt.Errorf("%w: %s", kafka.Error(r.Topics[0].ErrorCode), r.Topics[0].ErrorMessage)
	}
	return kafka.Error(r.Topics[0].ErrorCode)
}

// controller dials the broker that creates topics.
func (a *Admin) controller(ctx context.Context) (*protocol.Conn, error) {
	var errs []error
	for _, broker := range a.config.Brokers {
		r, err := a.metadata(ctx, broker, nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", broker, err))
			continue
		}
		for _, b := range r.Brokers {
			if b.NodeID == r.ControllerID {
				return a.dial(ctx, net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))))
			}
		}
		errs = append(errs, fmt.Errorf("%s: it names no controller", broker))
	}
	return nil, errors.Join(errs...)
}
