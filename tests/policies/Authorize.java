/* Kafka's own StandardAuthorizer, asked by a test: lines of words set apart by tabs in, one answer a line out.
 *
 *   acl  USER ALLOW|DENY RESOURCE LITERAL|PREFIXED NAME OPERATION
 *   ask  USER RESOURCE NAME OPERATION      after all lists: ALLOWED or DENIED
 *   any  USER RESOURCE OPERATION           the same of any resource of the kind (KIP-679)
 */

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetAddress;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.metrics.internals.PluginMetricsImpl;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;

public class Authorize {
    record Who(KafkaPrincipal principal, InetAddress clientAddress) implements AuthorizableRequestContext {
        public String listenerName() { return "test"; }
        public SecurityProtocol securityProtocol() { return SecurityProtocol.PLAINTEXT; }
        public int requestType() { return 0; }
        public int requestVersion() { return 0; }
        public String clientId() { return ""; }
        public int correlationId() { return 0; }
    }

    public static void main(String[] args) throws Exception {
        var lines = new BufferedReader(new InputStreamReader(System.in)).lines().map(line -> line.split("\t")).toList();
        Map<Uuid, StandardAcl> acls = new HashMap<>();
        for (String[] line : lines) {
            if (line[0].equals("acl")) {
                acls.put(Uuid.randomUuid(), new StandardAcl(
                    ResourceType.valueOf(line[3]), line[5], PatternType.valueOf(line[4]), "User:" + line[1], "*",
                    AclOperation.valueOf(line[6]), AclPermissionType.valueOf(line[2])));
            }
        }
        var authorizer = new StandardAuthorizer();
        authorizer.configure(Map.of());
        authorizer.withPluginMetrics(new PluginMetricsImpl(new Metrics(), new LinkedHashMap<>()));
        authorizer.loadSnapshot(acls);
        authorizer.completeInitialLoad();
        var out = new PrintStream(System.out, false);
        for (String[] line : lines) {
            if (line[0].equals("acl")) {
                continue;
            }
            var who = new Who(new KafkaPrincipal("User", line[1]), InetAddress.getLoopbackAddress());
            var type = ResourceType.valueOf(line[2]);
            if (line[0].equals("any")) {
                out.println(authorizer.authorizeByResourceType(who, AclOperation.valueOf(line[3]), type));
            } else {
                var pattern = new ResourcePattern(type, line[3], PatternType.LITERAL);
                var action = new Action(AclOperation.valueOf(line[4]), pattern, 1, false, false);
                out.println(authorizer.authorize(who, List.of(action)).get(0));
            }
        }
        out.flush();
    }
}
