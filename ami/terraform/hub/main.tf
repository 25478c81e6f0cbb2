# The hub: one instance, replaced by its Auto Scaling group when it fails, that always
# has the same interface, private and public address and key. So no route and no spoke
# has to change when another instance takes its place. With `hubs` 2 there is a second such
# hub beside it (second.tf).

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.0" }
  }
}

data "aws_partition" "this" {}
data "aws_region" "this" {}
data "aws_caller_identity" "this" {}
data "aws_subnet" "this" {
  id = var.public_subnet_id
}
data "aws_vpc" "this" {
  id = data.aws_subnet.this.vpc_id
}

module "documents" {
  source                 = "../documents"
  role                   = "hub"
  partition              = data.aws_partition.this.partition
  account                = data.aws_caller_identity.this.account_id
  region                 = data.aws_region.this.id
  privnet                = var.privnet
  service_tag            = var.service_tag
  environment_tag        = var.environment_tag
  fleet_secret_parameter = var.fleet_secret_parameter
  hub_key_parameter      = var.hub_key_parameter
  regions                = var.regions
  proof                  = var.proof
  discovery_roles        = var.discovery_roles
  more_config            = var.more_config
}

resource "aws_security_group" "this" {
  name_prefix = "privnet-hub-${var.name}-"
  description = "privnet hub ${var.name}"
  vpc_id      = data.aws_vpc.this.id
  tags        = { Name = "privnet-hub-${var.name}" }
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "tunnels" {
  for_each          = toset(var.tunnel_sources)
  security_group_id = aws_security_group.this.id
  description       = "tunnels"
  ip_protocol       = "udp"
  from_port         = 51820
  to_port           = 51820
  cidr_ipv4         = each.value
}

# IKE, and IKE and ESP as there is a NAT.
resource "aws_vpc_security_group_ingress_rule" "ipsec" {
  for_each          = { for pair in setproduct(var.ipsec_sources, [500, 4500]) : "${pair[0]} ${pair[1]}" => pair }
  security_group_id = aws_security_group.this.id
  description       = "IPsec"
  ip_protocol       = "udp"
  from_port         = each.value[1]
  to_port           = each.value[1]
  cidr_ipv4         = each.value[0]
}

resource "aws_vpc_security_group_ingress_rule" "vpc" {
  security_group_id = aws_security_group.this.id
  description       = "what the VPC's hosts send to the privnet"
  ip_protocol       = "-1"
  cidr_ipv4         = data.aws_vpc.this.cidr_block
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.this.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

# The instance's only interface. It outlives the instance, and the addresses and
# routes stay with it.
resource "aws_network_interface" "this" {
  description       = "privnet hub ${var.name}"
  subnet_id         = var.public_subnet_id
  security_groups   = [aws_security_group.this.id]
  source_dest_check = false
  tags              = { Name = "privnet-hub-${var.name}" }
}

resource "aws_eip" "this" {
  domain = "vpc"
  tags   = { Name = "privnet-hub-${var.name}" }
}

resource "aws_eip_association" "this" {
  allocation_id        = aws_eip.this.id
  network_interface_id = aws_network_interface.this.id
}

resource "aws_route" "privnet" {
  count                  = length(var.private_route_table_ids)
  route_table_id         = var.private_route_table_ids[count.index]
  destination_cidr_block = var.privnet
  network_interface_id   = aws_network_interface.this.id
}

resource "aws_iam_role" "this" {
  name               = "privnet-hub-${data.aws_region.this.id}-${var.name}"
  assume_role_policy = module.documents.trust
}

resource "aws_iam_role_policy" "this" {
  for_each = module.documents.policies
  name     = each.key
  role     = aws_iam_role.this.id
  policy   = each.value
}

resource "aws_iam_instance_profile" "this" {
  name = aws_iam_role.this.name
  role = aws_iam_role.this.name
}

resource "aws_launch_template" "this" {
  name_prefix            = "privnet-hub-${var.name}-"
  image_id               = var.image_id
  instance_type          = var.instance_type
  update_default_version = true
  # /etc/privnet/hub.toml, whole.
  user_data = base64encode(module.documents.config)

  iam_instance_profile {
    arn = aws_iam_instance_profile.this.arn
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  network_interfaces {
    device_index         = 0
    network_interface_id = aws_network_interface.this.id
  }
  tag_specifications {
    resource_type = "volume"
    tags          = { Name = "privnet-hub-${var.name}" }
  }
}

# One, because there is one interface: in its zone, without subnets.
resource "aws_autoscaling_group" "this" {
  name_prefix               = "privnet-hub-${var.name}-"
  min_size                  = 1
  max_size                  = 1
  desired_capacity          = 1
  availability_zones        = [data.aws_subnet.this.availability_zone]
  health_check_type         = "EC2"
  health_check_grace_period = 120

  launch_template {
    id      = aws_launch_template.this.id
    version = aws_launch_template.this.latest_version
  }
  tag {
    key                 = "Name"
    value               = "privnet-hub-${var.name}"
    propagate_at_launch = true
  }
  depends_on = [aws_eip_association.this, aws_iam_role_policy.this]
}

resource "aws_cloudwatch_metric_alarm" "this" {
  count               = var.alarm_topic_arn == "" ? 0 : 1
  alarm_name          = "privnet-hub-${var.name}"
  alarm_description   = "The hub's instance fails its status checks, or there is none"
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { AutoScalingGroupName = aws_autoscaling_group.this.name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
