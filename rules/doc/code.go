package doc

// Code names a kind of finding: R and three digits. Codes keep their meaning for ever; a retired one is
// not given out again.
type Code string

// The codes. README.md has the table for analysts; a test holds the two together.
const (
	CodeSyntax        Code = "R001" // not valid YAML
	CodeUnknownKey    Code = "R002" // a key that does not exist here
	CodeMissing       Code = "R003" // a key that must be there is not
	CodeWrongType     Code = "R004" // a value of the wrong kind
	CodeTooLarge      Code = "R005" // file, nesting, list or rule set beyond a bound
	CodeDuplicateID   Code = "R006" // two rules of one id
	CodeBadName       Code = "R007" // an id, list, macro or field name of the wrong form
	CodeYAMLFeature   Code = "R008" // anchors, aliases, tags, merge keys, several documents
	CodeBadFilter     Code = "R010" // not an MQTT topic filter
	CodeBadDuration   Code = "R011" // not a duration, or out of range
	CodeBadMode       Code = "R012" // not a mode
	CodeBadNumber     Code = "R013" // a number out of range
	CodeFolded        Code = "R020" // a folded (>) or many-line plain scalar as an expression
	CodeExprSyntax    Code = "R021" // the expression cannot be read
	CodeUnknownName   Code = "R022" // a name that does not exist
	CodeUnknownField  Code = "R023" // a payload field that the schema does not name
	CodeExprType      Code = "R024" // operands or arguments of types that do not fit
	CodeNotBool       Code = "R025" // a condition that is not true or false
	CodeMaybeNotBool  Code = "R026" // a condition that may be anything
	CodeUnbounded     Code = "R027" // a loop, range or function that is not bounded
	CodeExprTooLarge  Code = "R028" // an expression beyond 8 KiB or 2,000 nodes
	CodeMacro         Code = "R029" // a macro that uses itself or a later one
	CodeNoTarget      Code = "R040" // a rule without targets, or a target without a sink
	CodeTwoSinks      Code = "R041" // a target or Redis operation that is two at once
	CodeBadTemplate   Code = "R042" // a template that cannot be read
	CodeTemplateName  Code = "R043" // a template that takes what it may not
	CodeBadTopic      Code = "R044" // not a Kafka topic name
	CodeBadLane       Code = "R045" // not a lane
	CodeRedisOption   Code = "R046" // a key that does not fit this Redis operation
	CodeOperatorName  Code = "R047" // operator.x of an operator that the rule does not have
	CodeBadGeofence   Code = "R048" // a zone that is not a circle or polygon on Earth
	CodeOpenClass     Code = "R049" // ${class} in a topic without a list of the classes
	CodeNoMessage     Code = "R050" // something of a message behind an operator that sends when there is none
	CodeTwoWindows    Code = "R051" // two operators that send at the end of a time
	CodeBadLimit      Code = "R052" // not a limit for a rule's errors
	CodeBadTable      Code = "R055" // a table, or its file, that cannot be used
	CodeHashKey       Code = "R056" // hash, and the configuration has no key for it
	CodeTestFile      Code = "R060" // a test file that does not fit its rules
	CodeOperatorClash Code = "R061" // two operators share one identity in the state
	CodeEndpoint      Code = "R070" // a webhook that the configuration does not have
	CodeMQTTTopic     Code = "R071" // not a topic that a rule may publish to

	// Warnings: the rules work, and are likely to be meant otherwise.
	CodeConstant    Code = "R080" // a condition, or a part of one, that is always true or always false
	CodeQuotedName  Code = "R081" // a field's name as a text
	CodeSequence    Code = "R082" // a; b: only the last counts
	CodeNoEventTime Code = "R083" // late_ms without schema.event_at
	CodeDeadFilter  Code = "R084" // a topic filter that no vehicle's topic matches
	CodeOverlap     Code = "R085" // exit holds while enter does
	CodeUnused      Code = "R086" // a list, macro, zone or table that nothing uses
	CodeTopicPerVIN Code = "R087" // ${vin} in the name of a Kafka topic
	CodeIdleLimit   Code = "R088" // a limit of a rule that sends nothing
	CodeNoValue     Code = "R089" // a name without a value
)
