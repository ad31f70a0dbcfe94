import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter;
import org.apache.kafka.connect.runtime.errors.ProcessingContext;
import org.apache.kafka.connect.runtime.errors.Stage;
import org.apache.kafka.connect.util.ConnectorTaskId;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.errors.LogAndContinueProcessingExceptionHandler;
import org.apache.kafka.streams.test.TestRecord;
import org.springframework.kafka.core.KafkaOperations;
import org.springframework.kafka.listener.DeadLetterPublishingRecoverer;
import org.springframework.kafka.listener.ListenerExecutionFailedException;

/**
 * Has each system write a dead letter with its own code, and prints it as a line of JSON: what tests/dead_letters/fixtures holds.
 * Its argument is a broker, which itself writes the dead letters of share groups. Run by `make dialects`.
 */
public class Dialects {
    private static final byte[] KEY = "user-7".getBytes(StandardCharsets.UTF_8);
    private static final byte[] VALUE = "{\"type\":\"track\",\"messageId\":17}".getBytes(StandardCharsets.UTF_8);
    private static final long TIMESTAMP = 1_767_600_000_123L;

    public static void main(String[] arguments) throws Exception {
        connect();
        streams();
        spring();
        shareGroup(arguments[0]);
    }

    private static ConsumerRecord<byte[], byte[]> failed() {
        return new ConsumerRecord<>("orders", 3, 1042L, TIMESTAMP, TimestampType.CREATE_TIME, KEY.length, VALUE.length, KEY, VALUE,
            new RecordHeaders().add("trace", "abc".getBytes(StandardCharsets.UTF_8)), java.util.Optional.empty());
    }

    /** Its reporter fills the headers in a method of its package; the rest of the class needs a running worker. */
    private static void connect() throws Exception {
        ProcessingContext<ConsumerRecord<byte[], byte[]>> context = new ProcessingContext<>(failed());
        context.currentContext(Stage.VALUE_CONVERTER, JsonConverter.class);
        context.error(new DataException("Converting byte[] to Kafka Connect data failed due to serialization error"));
        Field theUnsafe = sun.misc.Unsafe.class.getDeclaredField("theUnsafe");
        theUnsafe.setAccessible(true);
        sun.misc.Unsafe unsafe = (sun.misc.Unsafe) theUnsafe.get(null);
        Object reporter = unsafe.allocateInstance(DeadLetterQueueReporter.class);
        Field task = DeadLetterQueueReporter.class.getDeclaredField("connectorTaskId");
        unsafe.putObject(reporter, unsafe.objectFieldOffset(task), new ConnectorTaskId("orders-sink", 2));
        ProducerRecord<byte[], byte[]> letter = new ProducerRecord<>("dlq-orders-sink", null, KEY, VALUE, failed().headers());
        Method populate =
            DeadLetterQueueReporter.class.getDeclaredMethod("populateContextHeaders", ProducerRecord.class, ProcessingContext.class);
        populate.setAccessible(true);
        populate.invoke(reporter, letter, context);
        print("connect", letter.topic(), 0, letter.key(), letter.value(), letter.headers());
    }

    private static void streams() {
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream("orders").mapValues(value -> {
            throw new IllegalStateException("order 17 has no customer");
        }).to("orders-clean");
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "orders-cleaner");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "nowhere:9092");
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.ByteArraySerde.class);
        settings.put(StreamsConfig.PROCESSING_EXCEPTION_HANDLER_CLASS_CONFIG, LogAndContinueProcessingExceptionHandler.class);
        settings.put(StreamsConfig.ERRORS_DEAD_LETTER_QUEUE_TOPIC_NAME_CONFIG, "orders-cleaner-dlq");
        try (TopologyTestDriver driver = new TopologyTestDriver(builder.build(), settings)) {
            driver.createInputTopic("orders", new ByteArraySerializer(), new ByteArraySerializer())
                .pipeInput(new TestRecord<>(KEY, VALUE, failed().headers(), TIMESTAMP));
            TestRecord<byte[], byte[]> letter =
                driver.createOutputTopic("orders-cleaner-dlq", new ByteArrayDeserializer(), new ByteArrayDeserializer()).readRecord();
            print("streams", "orders-cleaner-dlq", 0, letter.key(), letter.value(), letter.headers());
        }
    }

    /** With defaults; what would go to a broker is taken from its hands. */
    private static void spring() {
        KafkaOperations<?, ?> nobody = (KafkaOperations<?, ?>) Proxy.newProxyInstance(
            Dialects.class.getClassLoader(), new Class<?>[] {KafkaOperations.class}, (proxy, method, given) ->
                method.getReturnType() == boolean.class ? (Object) false : null);
        List<ProducerRecord<Object, Object>> sent = new ArrayList<>();
        DeadLetterPublishingRecoverer recoverer = new DeadLetterPublishingRecoverer(nobody) {
            @Override
            protected void send(
                ProducerRecord<Object, Object> letter, KafkaOperations<Object, Object> operations, ConsumerRecord<?, ?> from) {
                sent.add(letter);
            }
        };
        recoverer.accept(failed(), null, new ListenerExecutionFailedException(
            "Listener method threw exception", "orders-group", new IllegalArgumentException("order 17 has no customer")));
        ProducerRecord<Object, Object> letter = sent.get(0);
        print("spring", letter.topic(), letter.partition(), (byte[]) letter.key(), (byte[]) letter.value(), letter.headers());
    }

    /** The third record is rejected by its consumer; the broker writes the letter. Copying the record is off by default, and on here. */
    private static void shareGroup(String bootstrap) throws Exception {
        String group = "orders-workers", queue = "dlq.orders-workers";
        Map<String, Object> broker = Map.of("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(broker)) {
            Map<String, String> isQueue = Map.of("errors.deadletterqueue.group.enable", "true");
            admin.createTopics(List.of(new NewTopic("orders", 4, (short) 1), new NewTopic(queue, 4, (short) 1).configs(isQueue))).all().get();
            List<AlterConfigOp> settings = new ArrayList<>();
            Map.of("share.auto.offset.reset", "earliest", "errors.deadletterqueue.topic.name", queue,
                "errors.deadletterqueue.copy.record.enable", "true").forEach((name, value) ->
                    settings.add(new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET)));
            admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.GROUP, group), settings)).all().get();
        }
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(broker, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int number = 0; number < 3; number++) {
                producer.send(new ProducerRecord<>("orders", 3, TIMESTAMP, KEY, VALUE, failed().headers())).get();
            }
        }
        Map<String, Object> sharing = new HashMap<>(broker);
        sharing.putAll(Map.of("group.id", group, "share.acknowledgement.mode", "explicit"));
        try (KafkaShareConsumer<byte[], byte[]> consumer =
                new KafkaShareConsumer<>(sharing, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of("orders"));
            for (int seen = 0; seen < 3; consumer.commitSync()) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(500))) {
                    seen++;
                    consumer.acknowledge(record, record.offset() == 2 ? AcknowledgeType.REJECT : AcknowledgeType.ACCEPT);
                }
            }
        }
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(broker, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            TopicPartition partition = new TopicPartition(queue, 3);
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            ConsumerRecords<byte[], byte[]> found = ConsumerRecords.empty();
            while (found.isEmpty()) {
                found = consumer.poll(Duration.ofMillis(500));
            }
            ConsumerRecord<byte[], byte[]> letter = found.iterator().next();
            print("share-group", queue, 3, letter.key(), letter.value(), letter.headers());
        }
    }

    private static void print(String dialect, String topic, int partition, byte[] key, byte[] value, Headers headers) {
        List<String> named = new ArrayList<>();
        for (Header header : headers) {
            named.add("[" + quoted(header.key()) + ", " + encoded(header.value()) + "]");
        }
        System.out.println("{\"dialect\": " + quoted(dialect) + ", \"topic\": " + quoted(topic) + ", \"partition\": " + partition
            + ", \"key\": " + encoded(key) + ", \"value\": " + encoded(value) + ", \"headers\": [" + String.join(", ", named) + "]}");
    }

    private static String encoded(byte[] bytes) {
        return bytes == null ? "null" : quoted(Base64.getEncoder().encodeToString(bytes));
    }

    private static String quoted(String text) {
        return "\"" + text + "\"";
    }
}
