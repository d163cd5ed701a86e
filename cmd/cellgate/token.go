package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cellgate/auth"
)

func tokenCommand(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "issue, inspect, revoke and rotate the cell's tokens",
		Long: `token uses the keys of the gateway on this machine; issue and revoke also work over --api. A running gateway applies
changes within half a second.`,
		Example: "  cellgate token issue --vin LTEST000000000001",
	}
	cmd.AddCommand(tokenIssueCommand(c), tokenInspectCommand(c), tokenRevokeCommand(c), tokenRotateCommand(c))
	return cmd
}

// issueFlags are the flags of `token issue`.
type issueFlags struct {
	target
	vin, vins, service, operator string
	role                         string
	scopes                       []string
	commandNames, commandVINs    []string
	ttl                          time.Duration
}

func tokenIssueCommand(c *cli) *cobra.Command {
	f := &issueFlags{}
	cmd := &cobra.Command{
		Use:   "issue --vin VIN | --vins FILE | --service NAME | --operator NAME",
		Short: "issue tokens with the cell's keys",
		Long: `issue prints a token; with --vins one token per line, in the order of the file. An operator without --scope gets
every scope. Over --api it can only issue tokens for vehicles, and --token needs the scope token:issue.`,
		Example: `  cellgate token issue --vin LTEST000000000001
  cellgate token issue --service billing --scope telemetry:read,command:read --ttl 7d
  cellgate token issue --service loader --scope command:send --command-names load,unload --command-vins @pilot
  cellgate token issue --operator alice --ttl 1h`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.issue(cmd.Context(), f) },
	}
	f.flags(cmd)
	cmd.Flags().StringVar(&f.vin, "vin", "", "a vehicle")
	cmd.Flags().StringVar(&f.vins, "vins", "", "file with one VIN per line; - reads stdin")
	cmd.Flags().StringVar(&f.service, "service", "", "name of a service")
	cmd.Flags().StringVar(&f.operator, "operator", "", "name of an operator")
	cmd.Flags().StringVar(&f.role, "role", "", "a role of the configuration, with --service")
	cmd.Flags().StringSliceVar(&f.scopes, "scope", nil, "scopes of a service or operator: "+strings.Join(auth.Scopes(), ", "))
	cmd.Flags().StringSliceVar(&f.commandNames, "command-names", nil, "names of the commands that it may send and cancel (default all)")
	cmd.Flags().StringSliceVar(&f.commandVINs, "command-vins", nil, "VINs that it may send commands to, or @name of a list in auth.vin_lists (default all)")
	durationVar(cmd.Flags(), &f.ttl, "ttl", 0, "lifetime of the token (default auth.token_ttl)")
	cmd.MarkFlagsOneRequired("vin", "vins", "service", "operator")
	cmd.MarkFlagsMutuallyExclusive("vin", "vins", "service", "operator")
	c.jsonFlag(cmd)
	return cmd
}

// commandLimit restricts the commands that a token may send.
type commandLimit struct {
	CommandNames []string `json:"command_names,omitempty"`
	CommandVINs  []string `json:"command_vins,omitempty"`
}

// issued is a token as printed by --json.
type issued struct {
	Token   string   `json:"token"`
	Subject string   `json:"subject"`
	Role    string   `json:"role"`
	Scopes  []string `json:"scopes,omitempty"`
	commandLimit
	TokenID string    `json:"jti"`
	Expires time.Time `json:"expires"`
	Warning string    `json:"warning,omitempty"`
}

func (c *cli) issue(ctx context.Context, f *issueFlags) error {
	subjects, role, err := f.subjects(c.in)
	if err != nil {
		return err
	}
	issue := f.issueHere
	if f.api != "" {
		issue = f.issueThere
	}
	all, err := issue(ctx, subjects, role)
	if err != nil {
		return err
	}
	c.warnVINs(all)
	return c.printTokens(all, f.vins == "")
}

// issueThere lets a gateway elsewhere issue tokens.
func (f *issueFlags) issueThere(ctx context.Context, subjects []string, role string) ([]issued, error) {
	if role != auth.RoleVehicle {
		return nil, usagef("token: a gateway issues tokens for vehicles over --api; issue others on its machine")
	}
	client, err := f.client()
	if err != nil {
		return nil, err
	}
	var all []issued
	for _, vin := range subjects {
		body := map[string]string{"vin": vin}
		if f.ttl > 0 {
			body["ttl"] = f.ttl.String()
		}
		var answer struct {
			Token   string    `json:"token"`
			TokenID string    `json:"jti"`
			Expires time.Time `json:"expires_at"`
			Warning string    `json:"warning"`
		}
		if err := client.do(ctx, "POST", "/v1/tokens", body, &answer); err != nil {
			return nil, err
		}
		all = append(all, issued{Token: answer.Token, Subject: vin, Role: role, TokenID: answer.TokenID, Expires: answer.Expires, Warning: answer.Warning})
	}
	return all, nil
}

// issueHere issues tokens with the keys of a gateway on this machine.
func (f *issueFlags) issueHere(_ context.Context, subjects []string, role string) ([]issued, error) {
	a, err := f.authority()
	if err != nil {
		return nil, err
	}
	defer closeAuthority(a)
	all := make([]issued, 0, len(subjects))
	for _, s := range subjects {
		token, id, err := a.Issue(auth.IssueRequest{Subject: s, Role: role, Scopes: f.scopes, TTL: f.ttl, Commands: auth.CommandLimit{Names: f.commandNames, VINs: f.commandVINs}, Caller: auth.Caller{By: whoami()}})
		if err != nil {
			return nil, fmt.Errorf("token: %s: %w", s, err)
		}
		one := issued{Token: token, Subject: s, Role: id.Role, Scopes: id.Scopes, commandLimit: commandLimit{id.Commands.Names, id.Commands.VINs}, TokenID: id.TokenID, Expires: id.Expires}
		if role == auth.RoleVehicle {
			one.Warning = auth.CheckVIN(s).Warning()
		}
		all = append(all, one)
	}
	return all, nil
}

// warnVINs warns of the first name whose VIN form or check digit is wrong, with the number of further ones. The tokens
// are valid anyway.
func (c *cli) warnVINs(all []issued) {
	bad := slices.DeleteFunc(slices.Clone(all), func(t issued) bool { return t.Warning == "" })
	switch len(bad) {
	case 0:
	case 1:
		fmt.Fprintf(c.err, "cellgate: vin: %s: %s; the token is issued anyway\n", bad[0].Subject, bad[0].Warning) //nolint:errcheck // a hint
	default:
		fmt.Fprintf(c.err, "cellgate: vin: %s and %d more: %s; the tokens are issued anyway\n", bad[0].Subject, len(bad)-1, bad[0].Warning) //nolint:errcheck // a hint
	}
}

func (c *cli) printTokens(all []issued, one bool) error {
	if c.json && one {
		return c.print(all[0], nil)
	}
	return c.print(all, func(p *printer) {
		for _, t := range all {
			p.say("%s\n", t.Token)
		}
	})
}

// subjects returns the subjects to issue for, and their role.
func (f *issueFlags) subjects(in io.Reader) ([]string, string, error) {
	if f.role != "" && f.service == "" {
		return nil, "", usagef("token: --role goes with --service")
	}
	if len(f.scopes) > 0 && f.service == "" && f.operator == "" {
		return nil, "", usagef("token: --scope goes with --service or --operator")
	}
	switch {
	case f.vin != "":
		return []string{f.vin}, auth.RoleVehicle, nil
	case f.operator != "":
		return []string{f.operator}, auth.RoleOperator, nil
	case f.service != "" && f.role != "":
		return []string{f.service}, f.role, nil
	case f.service != "":
		return []string{f.service}, auth.RoleService, nil
	}
	if f.vins == "" {
		return nil, "", usagef("token: the name is empty: give a VIN, a file of VINs, or the name of a service or operator")
	}
	vins, err := readLines(f.vins, in)
	if err == nil && len(vins) == 0 {
		return nil, "", fmt.Errorf("vins: %s: no VIN in it; it takes one per line", f.vins)
	}
	if err != nil {
		return nil, "", fmt.Errorf("vins: %w", fileError(f.vins, err))
	}
	return vins, auth.RoleVehicle, nil
}

// readLines returns the lines of a file, or of stdin for "-", without empty ones and comments.
func readLines(name string, in io.Reader) ([]string, error) {
	if name != "-" {
		f, err := os.Open(name) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // only read
		in = f
	}
	var lines []string
	s := bufio.NewScanner(in)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines, s.Err()
}

func tokenInspectCommand(c *cli) *cobra.Command {
	t, cert := &target{}, ""
	cmd := &cobra.Command{
		Use:   "inspect [TOKEN]",
		Short: "show a token's contents and whether the cell accepts it",
		Long: `inspect verifies a token as a connection would, and shows its contents. Without TOKEN it reads stdin. For a token
that is bound to a client certificate, give the certificate with --cert. The exit code is 1 if the cell does not
accept the token.`,
		Example: "  cellgate token issue --vin LTEST000000000001 | cellgate token inspect",
		Args:    mayTake("TOKEN"),
		RunE:    func(_ *cobra.Command, args []string) error { return c.inspect(t, args, cert) },
	}
	t.localFlags(cmd)
	cmd.Flags().StringVar(&cert, "cert", "", "PEM file of the client certificate to which the token is bound")
	c.jsonFlag(cmd)
	return cmd
}

// inspected is the output of `token inspect`. The claims of an unaccepted token are not shown: they prove nothing.
type inspected struct {
	Accepted bool     `json:"accepted"`
	Why      string   `json:"why,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	Role     string   `json:"role,omitempty"`
	Scopes   []string `json:"scopes,omitempty"`
	commandLimit
	Issuer   string `json:"issuer,omitempty"`
	TokenID  string `json:"jti,omitempty"`
	KeyID    string `json:"kid,omitempty"`
	IssuedAt string `json:"issued_at,omitempty"`
	Expires  string `json:"expires,omitempty"`
	Bound    string `json:"bound_to_certificate,omitempty"`
}

// maxTokenInput bounds what is read from stdin, in bytes.
const maxTokenInput = 64 << 10

// certificate reads the first certificate of a PEM file; nil for no file.
func certificate(file string) (*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("cert: %w", fileError(file, err))
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("cert: no certificate in %s", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

func (c *cli) inspect(t *target, args []string, cert string) error {
	peer := auth.Peer{}
	var err error
	if peer.Certificate, err = certificate(cert); err != nil {
		return err
	}
	token := ""
	if len(args) == 1 && args[0] != "-" {
		token = args[0]
	} else {
		b, err := io.ReadAll(io.LimitReader(c.in, maxTokenInput))
		if err != nil {
			return fmt.Errorf("token: %w", err)
		}
		token = string(b)
	}
	a, err := t.authority()
	if err != nil {
		return err
	}
	defer closeAuthority(a)
	id, err := a.Verify([]byte(strings.TrimSpace(token)), peer)
	if err != nil {
		return errors.Join(c.print(inspected{Why: err.Error()}, func(p *printer) {
			p.say("not accepted: %s%s\n", err, refusalHint(err, token))
		}), silentError{})
	}
	out := inspected{
		Accepted: true, Subject: id.Subject, Role: id.Role, Scopes: id.Scopes, Issuer: id.Issuer, TokenID: id.TokenID,
		commandLimit: commandLimit{id.Commands.Names, id.Commands.VINs},
		KeyID:        id.KeyID, IssuedAt: id.IssuedAt.UTC().Format(time.RFC3339), Expires: id.Expires.UTC().Format(time.RFC3339), Bound: id.CertThumbprint,
	}
	now := time.Now()
	expires := whenText(id.Expires, now)
	if id.Expires.Before(now) {
		expires += ", accepted within the leeway"
	}
	return c.print(out, func(p *printer) {
		t := table{}
		t.row("accepted", "yes")
		t.row("subject", out.Subject)
		t.row("role", out.Role)
		t.row("scopes", strings.Join(out.Scopes, " "))
		t.row("commands", strings.Join(out.CommandNames, " "))
		t.row("to vehicles", strings.Join(out.CommandVINs, " "))
		t.row("issuer", out.Issuer)
		t.row("jti", out.TokenID)
		t.row("kid", out.KeyID)
		t.row("issued at", whenText(id.IssuedAt, now))
		t.row("expires", expires)
		t.row("bound to", out.Bound)
		t.pairs(p)
	})
}

// refusalHint returns what can be done about a refused token.
func refusalHint(err error, token string) string {
	switch {
	case errors.Is(err, auth.ErrExpired):
		return fmt.Sprintf(", at %s; issue another with `cellgate token issue`", whenText(tokenEnd(strings.TrimSpace(token)), time.Now()))
	case strings.TrimSpace(token) == "":
		return "; give it as the argument or on stdin"
	}
	return ""
}

func tokenRevokeCommand(c *cli) *cobra.Command {
	t := &target{}
	var r auth.Revocation
	var before string
	cmd := &cobra.Command{
		Use:   "revoke --jti ID | --sub NAME [--before TIME] | --before TIME",
		Short: "revoke tokens",
		Long: `revoke ends one token by its id (jti), all tokens of a subject, or all tokens issued up to a time. Open connections
end within a second. --sub revokes tokens of the cell's own issuer; --issuer names another issuer of the configuration.
Afterwards a new token can be issued for the subject, and a vehicle with its certificate gets one from token_api. To
prevent this until a given time, use --before with that time.`,
		Example: `  cellgate token revoke --sub LTEST000000000001 --reason "token leaked"
  cellgate token revoke --sub LTEST000000000001 --before 2027-01-01T00:00:00Z --purge --reason "stolen"
  cellgate token revoke --sub billing --issuer https://idp.example.com
  cellgate token revoke --before 2026-01-31T12:00:00Z`,
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if r.TokenID == "" && r.Subject == "" && before == "" {
				return usagef("token: give --jti, --sub or --before; see `cellgate token revoke --help`")
			}
			if before != "" {
				at, err := time.Parse(time.RFC3339, before)
				if err != nil {
					return usagef("before: %q is not a time such as 2026-01-31T12:00:00Z", before)
				}
				r.IssuedBefore = at
			}
			done, err := t.revoke(cmd.Context(), r)
			if err != nil {
				return err
			}
			return c.print(done, func(p *printer) {
				of := ""
				if done.Issuer != "" {
					of = ", for tokens of the issuer " + done.Issuer
				}
				if done.Subject != "" && !done.IssuedBefore.After(time.Now()) {
					of += "; a new token may be issued, unless --before is in the future"
				}
				p.say("revoked, in force until %s%s\n", timeText(done.Until), of)
			})
		},
	}
	c.callFlags(cmd, t)
	cmd.Flags().StringVar(&r.TokenID, "jti", "", "the token with this id")
	cmd.Flags().StringVar(&r.Subject, "sub", "", "every token of this VIN, service or operator, up to now unless --before")
	cmd.Flags().StringVar(&r.Issuer, "issuer", "", "with --sub: the issuer of its tokens (default the cell itself)")
	cmd.Flags().StringVar(&r.Role, "role", "", "with --sub: tokens of this role only (default every role)")
	cmd.Flags().StringVar(&before, "before", "", "tokens issued up to this time (RFC 3339)")
	cmd.Flags().StringVar(&r.Reason, "reason", "", "reason, for the audit log")
	cmd.Flags().BoolVar(&r.Purge, "purge", false, "also delete the subject's session and queued messages")
	return cmd
}

// revoke revokes tokens, with the keys of a gateway on this machine or over the API of another.
func (t *target) revoke(ctx context.Context, r auth.Revocation) (done auth.Revocation, err error) {
	if t.api == "" {
		a, err := t.authority()
		if err != nil {
			return done, err
		}
		defer closeAuthority(a)
		if done, err = a.Revoke(r, auth.Caller{By: whoami()}); err != nil {
			return done, fmt.Errorf("revoke: %w", err)
		}
		return done, nil
	}
	client, err := t.client()
	if err != nil {
		return done, err
	}
	body := map[string]any{}
	for name, value := range map[string]string{"jti": r.TokenID, "sub": r.Subject, "iss": r.Issuer, "role": r.Role, "reason": r.Reason} {
		if value != "" {
			body[name] = value
		}
	}
	if !r.IssuedBefore.IsZero() {
		body["issued_before"] = r.IssuedBefore
	}
	if r.Purge {
		body["purge"] = true
	}
	return done, client.do(ctx, "POST", "/v1/revocations", body, &done)
}

func tokenRotateCommand(c *cli) *cobra.Command {
	t := &target{}
	var r auth.RotateRequest
	var list bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "add a signing key and retire the older ones",
		Long: `rotate adds a signing key and publishes it. Older keys stay valid until the tokens that they signed have expired;
then they are deleted. --list shows the keys and changes nothing.`,
		Example: "  cellgate token rotate --keep 24h",
		Args:    takes(),
		RunE: func(*cobra.Command, []string) error {
			a, err := t.authority()
			if err != nil {
				return err
			}
			defer closeAuthority(a)
			if !list {
				r.By = whoami()
				if _, err := a.Rotate(r); err != nil {
					return err
				}
			}
			keys := a.Keys()
			return c.print(keys, func(p *printer) { printKeys(p, keys) })
		},
	}
	t.localFlags(cmd)
	cmd.Flags().StringVar(&r.Algorithm, "alg", "", "ES256 or EdDSA (default auth.alg)")
	durationVar(cmd.Flags(), &r.Keep, "keep", 0, "how long the older keys verify (default auth.token_ttl)")
	cmd.Flags().BoolVar(&list, "list", false, "only list the keys")
	c.jsonFlag(cmd)
	return cmd
}

func printKeys(p *printer, keys []auth.KeyInfo) {
	t := table{}
	t.row("KID", "ALG", "CREATED", "SIGNS FROM", "VERIFIES UNTIL", "SIGNING")
	for _, k := range keys {
		until := "-"
		if !k.VerifyUntil.IsZero() {
			until = timeText(k.VerifyUntil)
		}
		t.row(k.KID, k.Alg, timeText(k.Created), timeText(k.SignFrom), until, yes(k.Signing))
	}
	t.write(p)
}
