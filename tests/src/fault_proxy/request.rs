//! What a request to an AWS API asks for, in the protocols that our programs
//! speak: a form (EC2, STS), its query (a signed URL of STS), or JSON (SSM).

use axum::http::{HeaderMap, Uri, header};

use super::Call;

/// The service and region are in the signature's scope
/// (`KEY/DATE/REGION/SERVICE/aws4_request`), the rest in the form.
pub(super) fn describe(uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Call {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let form = String::from_utf8_lossy(body);
    let query = uri.query().unwrap_or_default();
    let field = |name| field(&form, name).or_else(|| field(query, name));
    let signature = text(header::AUTHORIZATION.as_str()).unwrap_or_default();
    let credential = signature
        .split("Credential=")
        .nth(1)
        .map(|scope| scope.split(',').next().unwrap_or_default().to_owned())
        // In a signed URL the slashes are escaped.
        .or_else(|| field("X-Amz-Credential").map(|scope| scope.replace("%2F", "/")))
        .unwrap_or_default();
    let mut scope = credential.split('/').map(str::to_owned);
    let (access_key, _date) = (scope.next(), scope.next());
    let (region, service) = (scope.next(), scope.next());
    // `AmazonSSM.GetParameter`
    let target = text("x-amz-target").and_then(|target| target.split('.').nth(1));
    Call {
        service: service.unwrap_or_default(),
        region: region.unwrap_or_default(),
        access_key: access_key.unwrap_or_default(),
        action: field("Action").or(target).unwrap_or_default().to_owned(),
        later_page: field("NextToken").is_some(),
        ..Call::default()
    }
}

/// The form with a smaller `MaxResults`, where it has one.
pub(super) fn limit_pages(body: &[u8], page_size: Option<u32>) -> Vec<u8> {
    let (Some(size), Ok(form)) = (page_size, std::str::from_utf8(body)) else {
        return body.to_vec();
    };
    let fields: Vec<String> = form
        .split('&')
        .map(|field| match field.strip_prefix("MaxResults=") {
            Some(_) => format!("MaxResults={size}"),
            None => field.to_owned(),
        })
        .collect();
    fields.join("&").into_bytes()
}

fn field<'a>(form: &'a str, name: &str) -> Option<&'a str> {
    form.split('&')
        .filter_map(|field| field.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that fails should panic")]
    use super::*;

    fn call(uri: &str, headers: &[(&'static str, &str)], body: &str) -> Call {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        describe(&uri.parse().unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn a_form_is_known_by_service_region_action_and_page() {
        let signature = "AWS4-HMAC-SHA256 Credential=KEY/20260101/eu-west-1/ec2/aws4_request, SignedHeaders=host";
        let call = call(
            "/",
            &[("authorization", signature)],
            "Action=DescribeInstances&NextToken=abc",
        );
        assert_eq!(call.service, "ec2");
        assert_eq!(call.region, "eu-west-1");
        assert_eq!(call.action, "DescribeInstances");
        assert!(call.later_page);
    }

    #[test]
    fn so_is_a_signed_url() {
        let call = call(
            "/?Action=GetCallerIdentity&X-Amz-Credential=KEY%2F20260101%2Feu-west-1%2Fsts%2Faws4_request",
            &[],
            "",
        );
        assert_eq!(call.service, "sts");
        assert_eq!(call.region, "eu-west-1");
        assert_eq!(call.action, "GetCallerIdentity");
        assert!(!call.later_page);
    }

    #[test]
    fn json_names_its_action_in_a_header() {
        let call = call("/", &[("x-amz-target", "AmazonSSM.GetParameter")], "{}");
        assert_eq!(call.action, "GetParameter");
    }

    #[test]
    fn pages_shrink_only_where_the_caller_asks_for_pages() {
        let limited = limit_pages(b"Action=X&MaxResults=1000&Version=1", Some(2));
        assert_eq!(limited, b"Action=X&MaxResults=2&Version=1");
        assert_eq!(limit_pages(b"Action=X", Some(2)), b"Action=X");
    }
}
