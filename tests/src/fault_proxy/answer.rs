//! Wrong answers: refusals as each AWS protocol writes them, and true answers
//! from which something is taken away.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Call, FaultKind};

/// The refusal that a fault is; `None` for a fault that is none.
pub(super) fn refusal(kind: FaultKind, call: &Call) -> Option<Response> {
    let ec2 = call.service == "ec2";
    let (status, code) = match kind {
        FaultKind::Throttled if ec2 => (503, "RequestLimitExceeded"),
        FaultKind::Throttled => (400, "Throttling"),
        FaultKind::Unavailable if ec2 => (503, "Unavailable"),
        FaultKind::Unavailable => (503, "ServiceUnavailable"),
        FaultKind::InternalError if ec2 => (500, "InternalError"),
        FaultKind::InternalError => (500, "InternalFailure"),
        FaultKind::Denied if ec2 => (403, "UnauthorizedOperation"),
        FaultKind::Denied => (403, "AccessDenied"),
        FaultKind::Expired if ec2 => (400, "RequestExpired"),
        FaultKind::Expired => (403, "ExpiredToken"),
        FaultKind::TableFull => (400, "RouteLimitExceeded"),
        FaultKind::Slow(_)
        | FaultKind::Hang
        | FaultKind::Cut
        | FaultKind::Abort
        | FaultKind::Empty
        | FaultKind::NothingListed
        | FaultKind::Untagged => return None,
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Some(write_refusal(status, code, call))
}

/// What EC2 says to a dry run of what moto would carry out all the same; `None` for
/// everything else.
pub(super) fn dry_run(call: &Call, form: &str) -> Option<Response> {
    const HEEDLESS: [&str; 3] = ["CreateRoute", "ReplaceRoute", "AssociateAddress"];
    let heedless = call.service == "ec2" && HEEDLESS.contains(&call.action.as_str());
    let asked = form.split('&').any(|field| field == "DryRun=true");
    (heedless && asked)
        .then(|| write_refusal(StatusCode::PRECONDITION_FAILED, "DryRunOperation", call))
}

/// EC2, the other services with forms, and those with JSON each have their own way.
fn write_refusal(status: StatusCode, code: &str, call: &Call) -> Response {
    let message = format!("simulated: {} was refused", call.action);
    let (content_type, body) = match call.service.as_str() {
        "ec2" => (
            "text/xml",
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
                 <Code>{code}</Code><Message>{message}</Message></Error></Errors>\
                 <RequestID>simulated</RequestID></Response>"
            ),
        ),
        "ssm" => (
            "application/x-amz-json-1.1",
            format!("{{\"__type\":\"{code}\",\"message\":\"{message}\"}}"),
        ),
        _ => (
            "text/xml",
            format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>\
                 <Message>{message}</Message></Error><RequestId>simulated</RequestId>\
                 </ErrorResponse>"
            ),
        ),
    };
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// What a fault leaves of a true answer.
pub(super) fn spoil(kind: FaultKind, answer: Vec<u8>) -> Vec<u8> {
    match kind {
        FaultKind::NothingListed => {
            let mut text = String::from_utf8_lossy(&answer).into_owned();
            for list in ["reservationSet", "vpcSet", "subnetSet", "regionInfo"] {
                text = without(&text, list);
            }
            without(&text, "nextToken").into_bytes()
        }
        FaultKind::Untagged => without(&String::from_utf8_lossy(&answer), "tagSet").into_bytes(),
        FaultKind::Throttled
        | FaultKind::Unavailable
        | FaultKind::InternalError
        | FaultKind::Denied
        | FaultKind::Expired
        | FaultKind::TableFull
        | FaultKind::Slow(_)
        | FaultKind::Hang
        | FaultKind::Cut
        | FaultKind::Abort
        | FaultKind::Empty => answer,
    }
}

/// Every instance as if it had been launched four years earlier (as many, because of the
/// 29th of February): the remedies leave alone whoever was launched just now.
pub(super) fn aged(answer: Vec<u8>) -> Vec<u8> {
    const LAUNCH: &str = "<launchTime>";
    let text = String::from_utf8_lossy(&answer);
    let mut parts = text.split(LAUNCH);
    let mut aged = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        aged.push_str(LAUNCH);
        let year = part.get(..4).and_then(|year| year.parse::<u16>().ok());
        match year.and_then(|year| Some((year.checked_sub(4)?, part.get(4..)?))) {
            Some((year, rest)) => aged.push_str(&format!("{year:04}{rest}")),
            None => aged.push_str(part),
        }
    }
    aged.into_bytes()
}

/// The text with every element of this name empty. They are not inside each other.
fn without(xml: &str, element: &str) -> String {
    let (start, end) = (format!("<{element}>"), format!("</{element}>"));
    let mut left = String::with_capacity(xml.len());
    let mut rest = xml;
    while let Some((before, after)) = rest.split_once(&start) {
        left.push_str(before);
        match after.split_once(&end) {
            Some((_, after)) => {
                left.push_str(&start);
                left.push_str(&end);
                rest = after;
            }
            None => {
                left.push_str(&start);
                rest = after;
            }
        }
    }
    left.push_str(rest);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item>\
        <instanceId>i-1</instanceId><tagSet><item><key>service</key></item></tagSet></item>\
        <item><instanceId>i-2</instanceId><tagSet><item><key>env</key></item></tagSet></item>\
        </instancesSet></item></reservationSet><nextToken>2</nextToken></DescribeInstancesResponse>";

    #[test]
    fn instances_are_four_years_older_than_they_are() {
        let answer = "<a><launchTime>2028-02-29T00:00:00Z</launchTime></a><launchTime/>";
        let older = "<a><launchTime>2024-02-29T00:00:00Z</launchTime></a><launchTime/>";
        assert_eq!(aged(answer.into()), older.as_bytes());
    }

    fn spoiled(kind: FaultKind) -> String {
        String::from_utf8_lossy(&spoil(kind, ANSWER.into())).into_owned()
    }

    #[test]
    fn a_list_with_nothing_on_it_is_well_formed_and_the_last_page() {
        assert_eq!(
            spoiled(FaultKind::NothingListed),
            "<DescribeInstancesResponse><reservationSet></reservationSet>\
             <nextToken></nextToken></DescribeInstancesResponse>"
        );
    }

    #[test]
    fn without_tags_the_instances_are_all_there() {
        let answer = spoiled(FaultKind::Untagged);
        assert!(answer.contains("i-1") && answer.contains("i-2"), "{answer}");
        assert!(!answer.contains("<key>"), "{answer}");
        assert!(answer.contains("<nextToken>2</nextToken>"), "{answer}");
    }

    #[test]
    fn what_moto_would_carry_out_is_answered_as_ec2_answers_a_dry_run() {
        let status = |action: &str, form| {
            let call = Call {
                service: "ec2".to_owned(),
                action: action.to_owned(),
                ..Call::default()
            };
            dry_run(&call, form).map(|response| response.status().as_u16())
        };
        assert_eq!(status("CreateRoute", "a=b&DryRun=true"), Some(412));
        assert_eq!(status("CreateRoute", "a=b&DryRun=false"), None);
        assert_eq!(status("CreateTags", "DryRun=true"), None);
    }

    #[test]
    fn each_service_refuses_in_its_own_words() {
        let status = |service: &str, kind| {
            let call = Call {
                service: service.to_owned(),
                ..Call::default()
            };
            refusal(kind, &call).map(|response| response.status().as_u16())
        };
        assert_eq!(status("ec2", FaultKind::Expired), Some(400));
        assert_eq!(status("sts", FaultKind::Expired), Some(403));
        assert_eq!(status("ec2", FaultKind::Hang), None);
    }
}
