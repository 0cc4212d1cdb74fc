#!/bin/sh
# Kafka's own tools, by the names that they have in its distribution (without .sh): `./dev kafka` links each of them here.
# KAFKA_OPTS: options for Java.
here=$(cd "$(dirname "$0")" && pwd)
kafka=$(cd "$here/../share/tulle/kafka" && pwd) || exit
# As lab/kafka/java.py has it: the archive of classes is good for this class path, in this order, only.
path=$(LC_ALL=C && printf '%s:' "$kafka"/lib/*.jar)
[ -e "$kafka/kafka.jsa" ] && shared="-XX:SharedArchiveFile=$kafka/kafka.jsa -Xlog:cds=off -Xlog:cds+dynamic=off"
fast=-XX:TieredStopAtLevel=1 # starts sooner; what measures gets the whole compiler
case $(basename "$0") in
  kafka-acls) class=org.apache.kafka.tools.AclCommand ;;
  kafka-broker-api-versions) class=org.apache.kafka.tools.BrokerApiVersionsCommand ;;
  kafka-configs) class=kafka.admin.ConfigCommand ;;
  kafka-console-consumer) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
  kafka-console-producer) class=org.apache.kafka.tools.ConsoleProducer ;;
  kafka-console-share-consumer) class=org.apache.kafka.tools.consumer.ConsoleShareConsumer ;;
  kafka-consumer-groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
  kafka-consumer-perf-test) class=org.apache.kafka.tools.ConsumerPerformance fast= ;;
  kafka-delete-records) class=org.apache.kafka.tools.DeleteRecordsCommand ;;
  kafka-e2e-latency) class=org.apache.kafka.tools.EndToEndLatency fast= ;;
  kafka-features) class=org.apache.kafka.tools.FeatureCommand ;;
  kafka-get-offsets) class=org.apache.kafka.tools.GetOffsetShell ;;
  kafka-groups) class=org.apache.kafka.tools.GroupsCommand ;;
  kafka-leader-election) class=org.apache.kafka.tools.LeaderElectionCommand ;;
  kafka-log-dirs) class=org.apache.kafka.tools.LogDirsCommand ;;
  kafka-producer-perf-test) class=org.apache.kafka.tools.ProducerPerformance fast= ;;
  kafka-reassign-partitions) class=org.apache.kafka.tools.reassign.ReassignPartitionsCommand ;;
  kafka-share-groups) class=org.apache.kafka.tools.consumer.group.ShareGroupCommand ;;
  kafka-storage) class=kafka.tools.StorageTool ;;
  kafka-topics) class=org.apache.kafka.tools.TopicCommand ;;
  kafka-transactions) class=org.apache.kafka.tools.TransactionsCommand ;;
  kafka-verifiable-producer) class=org.apache.kafka.tools.VerifiableProducer fast= ;;
  *) echo "$(basename "$0"): no tool of this name" >&2; exit 2 ;;
esac
# shellcheck disable=SC2086  options are words
exec java $shared -Xmx256m -XX:+UseSerialGC -XX:-UsePerfData $fast -Dlog4j2.configurationFile="file:$kafka/log4j2.properties" \
  ${KAFKA_OPTS:-} -cp "${path%:}" "$class" "$@"
