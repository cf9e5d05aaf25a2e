//! The API server itself refuses bad manifests, with a sentence that names the field; good ones it takes, with defaults.

use anyhow::{Context, Result};
use fettle_tests::{ControlPlane, TestNamespace};
use kubectl_fettle::manifest;
use kubectl_fettle::schema::Schemas;
use serde_json::Value;

const SHA: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// 64 bytes in base64.
const SIGNATURE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";

fn firmware(spec: &str) -> String {
    format!("apiVersion: fettle.dev/v1alpha1\nkind: Firmware\nmetadata: {{name: fw}}\nspec: {spec}\n")
}

fn source(source: &str) -> String {
    firmware(&format!("{{version: 5.2.1, images: [{{models: [S5700], source: {{{source}}}, sha256: {SHA}}}]}}"))
}

fn signed(signature: &str) -> String {
    firmware(&format!("{{version: 5.2.1, images: [{}]}}", image(&format!(", signature: {{{signature}}}"))))
}

fn profile(spec: &str) -> String {
    format!("apiVersion: fettle.dev/v1alpha1\nkind: ConfigProfile\nmetadata: {{name: cp}}\nspec: {spec}\n")
}

fn group(spec: &str) -> String {
    format!("apiVersion: fettle.dev/v1alpha1\nkind: DeviceGroup\nmetadata: {{name: dg}}\nspec: {spec}\n")
}

fn device(spec: &str) -> String {
    format!("apiVersion: fettle.dev/v1alpha1\nkind: Device\nmetadata: {{name: dev}}\nspec: {spec}\n")
}

fn image(rest: &str) -> String {
    format!("{{models: [S5700], source: {{file: {{path: a.bin}}}}, sha256: {SHA}{rest}}}")
}

/// What the API server says to a manifest that it is to refuse.
async fn refusal(namespace: &TestNamespace, yaml: &str) -> Result<String> {
    match namespace.kubectl_with_input(&["apply", "-f", "-"], yaml).await {
        Ok(answer) => anyhow::bail!("was taken ({answer}):\n{yaml}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[tokio::test]
async fn a_bad_manifest_is_refused_with_a_sentence_that_names_the_field() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("bad-manifests").await?;
    let good_image = image("");
    let selector = "selector: {matchLabels: {role: access}}";
    let bad = [
        (firmware(&format!("{{images: [{good_image}]}}")), "spec.version"),
        (firmware(&format!("{{version: \"\", images: [{good_image}]}}")), "spec.version"),
        (firmware("{version: 5.2.1}"), "spec.images"),
        (firmware(&format!("{{version: 5.2.1, images: [{}]}}", image(", crc: CRC-16"))), "spec.images[0].crc"),
        (firmware("{version: 5.2.1, images: []}"), "spec.images"),
        (
            firmware(&format!("{{version: 5.2.1, images: [{good_image}, {good_image}]}}")),
            "a model must stand in one image only",
        ),
        (
            firmware(&format!("{{version: 5.2.1, images: [{}]}}", good_image.replace(SHA, "abc"))),
            "spec.images[0].sha256",
        ),
        (
            firmware(&format!("{{version: 5.2.1, images: [{}]}}", good_image.replace("a.bin", "../etc/passwd"))),
            "must not contain '..'",
        ),
        (
            firmware(&format!("{{version: 5.2.1, images: [{}]}}", good_image.replace("a.bin", "/etc/passwd"))),
            "spec.images[0].source.file.path",
        ),
        (
            firmware(&format!("{{version: 5.2.1, images: [{}]}}", good_image.replace("file: {path: a.bin}", ""))),
            "give exactly one of file, http, oci and s3",
        ),
        (
            firmware(&format!(
                "{{version: 5.2.1, images: [{}]}}",
                good_image.replace("file: {path: a.bin}", "file: {path: a.bin}, http: {url: \"http://x/y\"}")
            )),
            "give exactly one of file, http, oci and s3",
        ),
        (
            firmware(&format!(
                "{{version: 5.2.1, images: [{}]}}",
                good_image.replace("file: {path: a.bin}", "http: {url: \"ftp://x/y\"}")
            )),
            "spec.images[0].source.http.url",
        ),
        (
            source("http: {url: \"https://user:pa55@x/y\"}"),
            "url must not hold a user or a password: put them into a Secret",
        ),
        (
            source("http: {url: \"http://x/y\", credentialsSecret: {name: s}}"),
            "credentials are sent over https only, so url must begin with https://",
        ),
        (source("http: {url: \"https://x/y\", credentialsSecret: {}}"), "source.http.credentialsSecret.name"),
        (source("http: {url: \"https://x/y\", caSecret: {key: ca.crt}}"), "source.http.caSecret.name"),
        (source("oci: {image: registry.example/s5700:5.2.1}"), "image must name a registry, a repository and a digest"),
        (source(&format!("oci: {{image: \"s5700@sha256:{SHA}\"}}")), "image must name a registry"),
        (
            source(&format!(
                "oci: {{image: \"r.example/a@sha256:{SHA}\", insecure: true, credentialsSecret: {{name: s}}}}"
            )),
            "credentials are sent over https only, so leave insecure out",
        ),
        (source("s3: {bucket: images}"), "source.s3.key"),
        (source("s3: {bucket: Images, key: a}"), "source.s3.bucket"),
        (source("s3: {bucket: images, key: a/../b}"), "key must not begin or end with '/'"),
        (source("s3: {bucket: images, key: /a}"), "key must not begin or end with '/'"),
        (source("s3: {bucket: images, key: a, endpoint: \"https://me:pa55@x\"}"), "source.s3.endpoint"),
        (source("s3: {bucket: images, key: a, endpoint: \"ftp://x\"}"), "source.s3.endpoint"),
        (source("s3: {bucket: images, key: a}, file: {path: a.bin}"), "give exactly one of file, http, oci and s3"),
        (signed("ed25519: x, publicKeySecret: {name: k}"), "spec.images[0].signature.ed25519"),
        (signed(&format!("ed25519: \"{SIGNATURE}\"")), "spec.images[0].signature.publicKeySecret"),
        (signed("publicKeySecret: {name: k}"), "signature: give exactly one of ed25519 and minisign"),
        (
            signed(&format!("ed25519: \"{SIGNATURE}\", minisign: text, publicKeySecret: {{name: k}}")),
            "signature: give exactly one of ed25519 and minisign",
        ),
        (profile("{version: \"17\"}"), "give exactly one of text, template, configMap and secret"),
        (
            profile("{version: \"17\", text: a, configMap: {name: c, key: k}}"),
            "give exactly one of text, template, configMap and secret",
        ),
        (
            profile("{version: \"17\", text: a, template: b}"),
            "give exactly one of text, template, configMap and secret",
        ),
        (profile("{version: \"17+1\", text: a}"), "spec.version"),
        (profile("{version: \"17\", template: \"\"}"), "spec.template"),
        (profile(&format!("{{version: \"17\", template: \"{}\"}}", "x".repeat(262_145))), "spec.template"),
        (profile("{version: \"17\", configMap: {name: c, key: k, template: yes please}}"), "spec.configMap.template"),
        (profile("{version: \"17\", text: a, crc: MD5}"), "spec.crc"),
        (profile("{version: \"17\", secret: {name: s}}"), "spec.secret.key"),
        (group("{firmware: {name: fw}}"), "spec.selector"),
        (group(&format!("{{{selector}}}")), "give firmware or config or both"),
        (group(&format!("{{{selector}, firmware: null}}")), "give firmware or config or both"),
        (
            group("{selector: {matchExpressions: [{key: a, operator: Near}]}, config: {name: cp}}"),
            "spec.selector.matchExpressions[0].operator",
        ),
        (
            group("{selector: {matchExpressions: [{key: a, operator: In}]}, config: {name: cp}}"),
            "values must be given for In and NotIn",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{maxUnavailable: 0}}}}")),
            "spec.rollout.maxUnavailable",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{maxUnavailable: 0%}}}}")),
            "a percentage from 1% to 100%",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{maxUnavailable: many}}}}")),
            "spec.rollout.maxUnavailable",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{deviceTimeout: 15}}}}")),
            "spec.rollout.deviceTimeout",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{deviceTimeout: 500ms}}}}")),
            "must be a duration from 1s to 720h",
        ),
        (group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{minReady: soon}}}}")), "spec.rollout.minReady"),
        (group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{retries: -1}}}}")), "spec.rollout.retries"),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{steps: [{{devices: 0}}]}}}}")),
            "must be a number from 1 up",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{steps: [{{devices: 1, soak: long}}]}}}}")),
            "spec.rollout.steps[0].soak",
        ),
        (
            group(&format!(
                "{{{selector}, config: {{name: cp}}, rollout: {{steps: [{{devices: 1, approval: Mine}}]}}}}"
            )),
            "spec.rollout.steps[0].approval",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{failureBudget: -1}}}}")),
            "must be a number from 0 up",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{onFailure: Panic}}}}")),
            "spec.rollout.onFailure",
        ),
        (
            group(&format!(
                "{{{selector}, config: {{name: cp}}, rollout: {{spread: [{{label: site, maxUnavailable: 0}}]}}}}"
            )),
            "spec.rollout.spread[0].maxUnavailable",
        ),
        (group(&format!("{{{selector}, config: {{name: cp}}, rollout: {{download: Soon}}}}")), "spec.rollout.download"),
        (
            group(&format!("{{{selector}, config: {{name: cp, apply: {{mode: Scheduled}}}}}}")),
            "mode Scheduled needs a time of day",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp, apply: {{at: \"03:00\"}}}}}}")),
            "set mode: Scheduled, or leave at out",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp, apply: {{mode: Scheduled, at: \"24:00\"}}}}}}")),
            "spec.config.apply.at",
        ),
        (group(&format!("{{{selector}, firmware: {{name: fw, policy: Newest}}}}")), "spec.firmware.policy"),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, windows: [{{schedule: often, duration: 4h}}]}}")),
            "spec.windows[0].schedule",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, windows: [{{schedule: 0 2 * * 6, duration: 10m}}]}}")),
            "must not be shorter than rollout.deviceTimeout",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, freezes: [{{from: soon, to: 2027-01-04}}]}}")),
            "must be a date such as 2026-12-20",
        ),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, freezes: [{{from: 2027-01-05, to: 2027-01-04}}]}}")),
            "to must not be before from",
        ),
        (group(&format!("{{{selector}, config: {{name: cp}}, timeZone: europe/berlin}}")), "spec.timeZone"),
        (
            group(&format!("{{{selector}, config: {{name: cp}}, revisionHistoryLimit: -1}}")),
            "spec.revisionHistoryLimit",
        ),
        (
            firmware(&format!("{{version: 5.2.1, images: [{}]}}", image(", upgradableFrom: newer"))),
            "must compare versions, such as >=4.8.0",
        ),
        (group(&format!("{{{selector}, config: {{name: cp}}, transfer: SCP}}")), "spec.transfer"),
        (group(&format!("{{{selector}, config: {{name: cp}}, session: Drop}}")), "spec.session"),
        (group(&format!("{{{selector}, config: {{name: cp}}, logs: {{upload: Sometimes}}}}")), "spec.logs.upload"),
        (group(&format!("{{{selector}, config: {{name: cp}}, logs: {{udp: perhaps}}}}")), "spec.logs.udp"),
        (device("{}"), "spec.mac"),
        (device("{mac: \"02:00:5e:00:53\"}"), "spec.mac"),
        (device("{mac: 02-00-5e-00-53-0e}"), "spec.mac"),
        (device("{mac: \"02:00:5e:00:53:0e\", transfer: HTTPS}"), "spec.transfer"),
        (device("{mac: \"02:00:5e:00:53:0e\", approved: maybe}"), "spec.approved"),
        (device("{mac: \"02:00:5e:00:53:0e\", timeZone: berlin}"), "spec.timeZone"),
    ];
    for (yaml, field) in bad {
        let said = refusal(&namespace, &yaml).await?;
        assert!(said.contains(field), "should name {field}:\n{yaml}\nsays: {said}");
        let found = lint(&yaml)?;
        assert!(found.contains(field), "the plugin should name {field}:\n{yaml}\nsays: {found}");
    }
    Ok(())
}

/// What `kubectl fettle lint` says of a manifest by itself.
fn lint(yaml: &str) -> Result<String> {
    let mut said = String::new();
    for document in manifest::split("manifest", yaml)? {
        for fault in Schemas::ours().check(document.kind(), &document.value) {
            said.push_str(&format!("{}: {}\n", fault.path, fault.message));
        }
    }
    Ok(said)
}

#[tokio::test]
async fn what_must_not_change_does_not() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("immutable").await?;
    let good = firmware(&format!("{{version: 5.2.1, images: [{}]}}", image("")));
    namespace.apply_yaml(&good).await?;
    namespace.apply_yaml(&good).await.context("the same again")?;
    let said = refusal(&namespace, &good.replace("5.2.1", "5.2.2")).await?;
    assert!(said.contains("a Firmware is immutable: create one with another name"), "{said}");

    namespace.apply_yaml(&device("{mac: \"02:00:5e:00:53:0e\"}")).await?;
    namespace.apply_yaml(&device("{mac: \"02:00:5E:00:53:0E\"}")).await.context("case does not count")?;
    let said = refusal(&namespace, &device("{mac: \"02:00:5e:00:53:0f\"}")).await?;
    assert!(said.contains("mac is immutable: delete the Device and create another"), "{said}");

    let rollout = "apiVersion: fettle.dev/v1alpha1\nkind: DeviceRollout\nmetadata: {name: dg-1}\nspec: {group: dg, number: 1, revision: abc}\n";
    namespace.apply_yaml(rollout).await?;
    let said = refusal(&namespace, &rollout.replace("number: 1", "number: 2")).await?;
    assert!(said.contains("change the DeviceGroup instead"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_person_may_say_what_becomes_of_a_rollout_and_applying_it_again_takes_nothing_back() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("persons").await?;
    let rollout = "apiVersion: fettle.dev/v1alpha1\nkind: DeviceRollout\nmetadata: {name: dg-1}\nspec: {group: dg, number: 1, revision: abc, steps: [{devices: 1, approval: Required}]}\n";
    namespace.apply_yaml(rollout).await?;
    let patch = |spec: &str| format!("{{\"spec\": {spec}}}");
    let good = patch(
        r#"{"paused": true, "approvedStep": 1, "abort": "Rollback", "retryAt": "2026-11-20T02:00:00Z", "acceptFailures": 3}"#,
    );
    namespace.kubectl(&["patch", "drol", "dg-1", "--type=merge", "-p", &good]).await?;
    for (bad, said) in [
        (r#"{"approvedStep": 2}"#, "approvedStep: the rollout has not that many steps"),
        (r#"{"abort": "Now"}"#, "spec.abort"),
        (r#"{"retryAt": "soon"}"#, "spec.retryAt"),
        (r#"{"steps": []}"#, "change the DeviceGroup instead"),
    ] {
        let refused = namespace.kubectl(&["patch", "drol", "dg-1", "--type=merge", "-p", &patch(bad)]).await;
        let error = format!("{:#}", refused.expect_err(bad));
        assert!(error.contains(said), "{bad}: {error}");
    }
    namespace.apply_yaml(rollout).await?;
    let approved = namespace.kubectl(&["get", "drol", "dg-1", "-o", "jsonpath={.spec.approvedStep}"]).await?;
    assert_eq!(approved.trim(), "1");
    Ok(())
}

#[tokio::test]
async fn a_good_manifest_is_taken_and_gets_its_defaults() -> Result<()> {
    let namespace = ControlPlane::shared().await?.namespace("good-manifests").await?;
    let good = [
        firmware(&format!(
            "{{version: 2026-11-20, images: [{}, {}]}}",
            image(", reports: V5, upgradableFrom: \">=4.8.0, <6 || 3.9.1\""),
            image("").replace("S5700", "S5720")
        )),
        profile("{version: \"17\", models: [S5700], configMap: {name: c, key: k}}"),
        profile("{version: \"17\", template: \"hostname {{ device.name }}\"}").replace("name: cp", "name: cp-template"),
        profile("{version: \"17\", secret: {name: c, key: k, template: true}}").replace("name: cp", "name: cp-secret"),
        device("{mac: \"02:00:5e:00:53:0e\", model: S5700, timeZone: Europe/Berlin}"),
        group(
            "{selector: {matchLabels: {role: access}, matchExpressions: [{key: site, operator: Exists}]}, firmware: {name: fw}, config: {name: cp, apply: {mode: Scheduled, at: \"03:00\"}}, rollout: {maxUnavailable: 5%, download: Ahead, deviceTimeout: 1h30m, minReady: 0s, steps: [{selector: {matchLabels: {ring: canary}}, devices: 100%, soak: 10m}, {devices: 5, approval: Required}], spread: [{label: pair, maxUnavailable: 1}]}, windows: [{schedule: 0 2 * * 6, duration: 4h, timeZone: Europe/Berlin}], freezes: [{from: \"2026-12-20\", to: \"2027-01-04T08:00:00+01:00\", reason: year end}]}",
        ),
        source("http: {url: \"https://x/y?a=b@c\", credentialsSecret: {name: s}, caSecret: {name: c}}")
            .replace("fw", "fw-http"),
        source(&format!(
            "oci: {{image: \"registry.example:5000/firmware/s5700:5.2.1@sha256:{SHA}\", file: s5700.bin, credentialsSecret: {{name: s}}, caSecret: {{name: c, key: ca}}}}"
        ))
        .replace("fw", "fw-oci"),
        source(&format!("oci: {{image: \"localhost:5000/a@sha256:{SHA}\", insecure: true}}")).replace("fw", "fw-plain"),
        source("s3: {bucket: images, key: a/b.bin, credentialsSecret: {name: s}}").replace("fw", "fw-s3"),
        source("s3: {bucket: images, key: b.bin, region: eu-central-1, endpoint: \"https://minio.example:9000/\"}")
            .replace("fw", "fw-minio"),
        signed(&format!("ed25519: \"{SIGNATURE}\", publicKeySecret: {{name: k}}")).replace("fw", "fw-ed25519"),
        signed("minisign: \"untrusted comment: x\\nRU\", publicKeySecret: {name: k, key: minisign.pub}")
            .replace("fw", "fw-minisign"),
    ];
    for yaml in good {
        namespace.apply_yaml(&yaml).await?;
        assert_eq!(lint(&yaml)?, "", "{yaml}");
    }
    let images = |name: &'static str| {
        let namespace = &namespace;
        async move {
            let firmware: Value = serde_json::from_str(&namespace.kubectl(&["get", "fw", name, "-o", "json"]).await?)?;
            anyhow::Ok(firmware["spec"]["images"].clone())
        }
    };
    // What is left out of the items of a list stays out of it: applied again, the list is the same.
    assert_eq!(images("fw-http").await?[0]["source"]["http"]["caSecret"], serde_json::json!({"name": "c"}));
    assert_eq!(images("fw-s3").await?[0]["source"]["s3"]["region"], Value::Null);
    assert_eq!(images("fw-ed25519").await?[0]["signature"]["publicKeySecret"], serde_json::json!({"name": "k"}));

    let group: Value = serde_json::from_str(&namespace.kubectl(&["get", "dg", "dg", "-o", "json"]).await?)?;
    assert_eq!(
        group["spec"],
        serde_json::json!({
            "selector": {"matchLabels": {"role": "access"}, "matchExpressions": [{"key": "site", "operator": "Exists"}]},
            "firmware": {"name": "fw", "policy": "UpgradeOnly"},
            "config": {"name": "cp", "apply": {"mode": "Scheduled", "at": "03:00"}},
            "rollout": {
                "maxUnavailable": "5%",
                "failureBudget": 0,
                "onFailure": "Pause",
                "deviceTimeout": "1h30m",
                "minReady": "0s",
                "retries": 2,
                "download": "Ahead",
                "steps": [
                    {"selector": {"matchLabels": {"ring": "canary"}}, "devices": "100%", "soak": "10m"},
                    {"devices": 5, "approval": "Required"},
                ],
                "spread": [{"label": "pair", "maxUnavailable": 1}],
            },
            "windows": [{"schedule": "0 2 * * 6", "duration": "4h", "timeZone": "Europe/Berlin"}],
            "freezes": [{"from": "2026-12-20", "to": "2027-01-04T08:00:00+01:00", "reason": "year end"}],
            "timeZone": "UTC",
            "paused": false,
            "revisionHistoryLimit": 10,
            "transfer": "Auto",
            "session": "Keep",
            "logs": {"upload": "OnFailure", "udp": false},
        })
    );
    let device: Value = serde_json::from_str(&namespace.kubectl(&["get", "dev", "dev", "-o", "json"]).await?)?;
    assert_eq!(
        device["spec"],
        serde_json::json!({"mac": "02:00:5e:00:53:0e", "model": "S5700", "approved": true, "held": false, "timeZone": "Europe/Berlin"})
    );

    // All kinds answer to the category and to their short names.
    let listed = namespace.kubectl(&["get", "fettle", "-o", "name"]).await?;
    for kind in
        ["firmware.fettle.dev/fw", "configprofile.fettle.dev/cp", "devicegroup.fettle.dev/dg", "device.fettle.dev/dev"]
    {
        assert!(listed.contains(kind), "{kind} in {listed}");
    }
    for short in ["fw", "cp", "dg", "drol", "dev"] {
        namespace.kubectl(&["get", short]).await?;
    }
    Ok(())
}
