package doc

// Code is the kind of a finding: R and three digits. Codes keep their meaning permanently; retired codes are not
// reused.
type Code string

// The codes. README.md documents them for analysts; a test keeps both in step.
const (
	CodeSyntax        Code = "R001" // not valid YAML
	CodeUnknownKey    Code = "R002" // a key that is unknown here
	CodeMissing       Code = "R003" // a required key is missing
	CodeWrongType     Code = "R004" // a value of the wrong type
	CodeTooLarge      Code = "R005" // file, nesting, list or rule set beyond a bound
	CodeDuplicateID   Code = "R006" // two rules with the same id
	CodeBadName       Code = "R007" // an invalid id or name of a list, macro or field
	CodeYAMLFeature   Code = "R008" // anchors, aliases, tags, merge keys, several documents
	CodeBadFilter     Code = "R010" // not an MQTT topic filter
	CodeBadDuration   Code = "R011" // not a duration, or out of range
	CodeBadMode       Code = "R012" // not a mode
	CodeBadNumber     Code = "R013" // a number out of range
	CodeFolded        Code = "R020" // a folded (>) or multi-line plain scalar as an expression
	CodeExprSyntax    Code = "R021" // the expression has a syntax error
	CodeUnknownName   Code = "R022" // a name that is not defined
	CodeUnknownField  Code = "R023" // a payload field that is not in the schema
	CodeExprType      Code = "R024" // operands or arguments of the wrong type
	CodeNotBool       Code = "R025" // a condition that is not boolean
	CodeMaybeNotBool  Code = "R026" // a condition that may not be boolean
	CodeUnbounded     Code = "R027" // an unbounded loop, range or function
	CodeExprTooLarge  Code = "R028" // an expression larger than 8 KiB or 2,000 nodes
	CodeMacro         Code = "R029" // a macro that uses itself or a later one
	CodeNoTarget      Code = "R040" // a rule without targets, or a target without a sink
	CodeTwoSinks      Code = "R041" // a target or Redis operation that mixes two
	CodeBadTemplate   Code = "R042" // a template with a syntax error
	CodeTemplateName  Code = "R043" // a template with a name that it may not use
	CodeBadTopic      Code = "R044" // not a Kafka topic name
	CodeBadLane       Code = "R045" // not a lane
	CodeRedisOption   Code = "R046" // a key that this Redis operation does not accept
	CodeOperatorName  Code = "R047" // operator.x of an operator that the rule does not use
	CodeBadGeofence   Code = "R048" // a zone that is not a circle or polygon on Earth
	CodeOpenClass     Code = "R049" // ${class} in a topic without a list of the classes
	CodeNoMessage     Code = "R050" // a message's value after an operator that sends without a message
	CodeTwoWindows    Code = "R051" // two operators that send at the end of a period
	CodeBadLimit      Code = "R052" // not a valid limit for a rule's errors
	CodeBadTable      Code = "R055" // a table or table file that is not usable
	CodeHashKey       Code = "R056" // hash, without a key in the configuration
	CodeTestFile      Code = "R060" // a test file that does not fit its rules
	CodeOperatorClash Code = "R061" // two operators with the same identity in the state
	CodeEndpoint      Code = "R070" // a webhook that is not in the configuration
	CodeMQTTTopic     Code = "R071" // a topic that a rule may not publish to

	// Warnings: the rules work but probably do not do what is intended.
	CodeConstant    Code = "R080" // a condition, or a part of one, that is always true or always false
	CodeQuotedName  Code = "R081" // a field's name in quotes
	CodeSequence    Code = "R082" // a; b: only the last counts
	CodeNoEventTime Code = "R083" // late_ms without schema.event_at
	CodeDeadFilter  Code = "R084" // a topic filter that no vehicle's topic matches
	CodeOverlap     Code = "R085" // exit can hold while enter does
	CodeUnused      Code = "R086" // an unused list, macro, zone or table
	CodeTopicPerVIN Code = "R087" // ${vin} in a Kafka topic name
	CodeIdleLimit   Code = "R088" // a limit on a rule that sends nothing
	CodeNoValue     Code = "R089" // a name without a value
)
