package redis

import (
	"crypto/tls"
	"errors"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Config says how to reach Redis.
type Config struct {
	// Addresses are host:port: one for a single server, several for a cluster, or the sentinels when
	// Master is set.
	Addresses []string
	// Master is the name of the master in a sentinel group.
	Master   string
	User     string
	Password string
	DB       int
	// TLS is nil for plain connections.
	TLS *tls.Config
	// Timeout limits connecting, and one exchange; 3 s by default.
	Timeout time.Duration
}

// Open makes a client. It does not connect: a Redis that is away is no error.
func Open(c Config) (goredis.UniversalClient, error) {
	if len(c.Addresses) == 0 {
		return nil, errors.New("redis settings: no address")
	}
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Second
	}
	return goredis.NewUniversalClient(&goredis.UniversalOptions{
		Addrs: c.Addresses, MasterName: c.Master, Username: c.User, Password: c.Password, DB: c.DB,
		TLSConfig:   c.TLS,
		DialTimeout: c.Timeout, ReadTimeout: c.Timeout, WriteTimeout: c.Timeout,
		MaxRetries:      -1, // the sink tries again itself: it knows what must stay in order
		DisableIdentity: true,
	}), nil
}
